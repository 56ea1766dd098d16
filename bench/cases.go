package main

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// cases in the order of the table. A case may fill several rows.
var cases = []struct {
	name string
	run  func(context.Context, *bench) ([]result, error)
}{
	{"pull six layers", pull(sixLayers)},
	{"pull twelve tiny layers", pull(tinyLayers)},
	{"pull one large layer", pull(oneLayer)},
	{"pull again", pullAgain},
	{"durability", durability},
	{"export", export},
	{"import", importArchive},
	{"small images", small},
	{"registry far, large layer", farLarge},
	{"registry far, small layers", farSmall},
	{"registry push", push},
	{"registry silent mirror", deadMirror},
	{"unpack app", unpack(appImage, 0.7, 0.7)},
	{"unpack large", unpack(largeImage, 0.8, 0.7)},
	{"unpack meta", unpack(metaImage, 0.7, 0)},
	{"unpack files", unpack(filesImage, 0.5, 0.6)},
	{"unpack zstd", unpack(zstdImage, 0.8, 0)},
	{"unpack, durable", durableUnpack},
	{"keeping", keeping},
	{"grown", grown},
	{"verify", verify},
	{"daemon", api},
}

// none is what skopeo gives: bytes left to the kernel. packedOnly is what it does: layers as they
// come.
const (
	none       = "--sync=none"
	packedOnly = "--no-unpack"
)

func pull(name string) func(context.Context, *bench) ([]result, error) {
	return func(ctx context.Context, b *bench) ([]result, error) {
		reference, err := b.image(ctx, name)
		if err != nil {
			return nil, err
		}
		all, err := b.turns(ctx, b.folder,
			step{command: func(dir string) []string { return b.stowage(dir, none, "pull", packedOnly, reference) }},
			step{command: func(dir string) []string {
				return skopeo("docker://"+reference, "oci:"+filepath.Join(dir, "layout")+":1")
			}})
		if err != nil {
			return nil, err
		}
		return []result{{name: "pull " + name, ours: all[0], peerName: "skopeo", peer: all[1], ratio: 1}}, nil
	}
}

// durability compares a durable pull with one whose bytes are flushed once, at its end.
func durability(ctx context.Context, b *bench) ([]result, error) {
	reference, err := b.image(ctx, sixLayers)
	if err != nil {
		return nil, err
	}
	all, err := b.turns(ctx, b.folder,
		step{command: func(dir string) []string { return b.stowage(dir, "pull", packedOnly, reference) }},
		step{command: func(dir string) []string {
			return append([]string{"sh", "-c", `"$@" && sync -f "$3"`, "sh"}, b.stowage(dir, none, "pull", packedOnly, reference)...)
		}})
	if err != nil {
		return nil, err
	}
	return []result{{
		name: "pull six, durable", ours: all[0],
		peerName: "stowage --sync=none, then sync -f", peer: all[1], ratio: 1,
	}}, nil
}

// filled is a store that has an image, durably: it vouches only for blobs that were synced.
func (b *bench) filled(ctx context.Context, reference string) (string, error) {
	root, err := os.MkdirTemp(b.work(), "store-")
	if err != nil {
		return "", err
	}
	_, err = runProcess(ctx, b.stowage(root, "pull", packedOnly, reference))
	return root, err
}

func export(ctx context.Context, b *bench) ([]result, error) {
	reference, err := b.image(ctx, sixLayers)
	if err != nil {
		return nil, err
	}
	store, err := b.filled(ctx, reference)
	if err != nil {
		return nil, err
	}
	layout := filepath.Join(b.work(), "layout")
	archive := filepath.Join(b.work(), "export.tar")
	for _, command := range [][]string{
		skopeo("docker://"+reference, "oci:"+layout+":1"),
		b.stowage(store, none, "export", archive, reference),
	} {
		if _, err := runProcess(ctx, command); err != nil {
			return nil, err
		}
	}
	all, err := b.turns(ctx, b.folder,
		step{command: func(dir string) []string {
			return b.stowage(store, none, "export", filepath.Join(dir, "out.tar"), reference)
		}},
		step{command: func(dir string) []string {
			return skopeo("oci:"+layout+":1", "oci-archive:"+filepath.Join(dir, "out.tar")+":1")
		}},
		step{command: func(dir string) []string {
			return []string{"cp", archive, filepath.Join(dir, "out.tar")}
		}},
		step{command: func(dir string) []string {
			return b.stowage(store, none, "export", "--verify", filepath.Join(dir, "out.tar"), reference)
		}})
	if err != nil {
		return nil, err
	}
	return []result{
		{name: "export six", ours: all[0], peerName: "skopeo", peer: all[1], ratio: 1},
		{name: "export six", ours: all[0], peerName: "cp", peer: all[2], ratio: 1.5},
		{name: "export six --verify", ours: all[3], peerName: "skopeo", peer: all[1], ratio: 1},
	}, nil
}

func importArchive(ctx context.Context, b *bench) ([]result, error) {
	reference, err := b.image(ctx, sixLayers)
	if err != nil {
		return nil, err
	}
	archive := filepath.Join(b.work(), "import.tar")
	if _, err := runProcess(ctx, skopeo("docker://"+reference, "oci-archive:"+archive+":1")); err != nil {
		return nil, err
	}
	all, err := b.turns(ctx, b.folder,
		step{command: func(dir string) []string {
			return b.stowage(dir, none, "import", packedOnly, "--tag", "example.com/bench/six:1", archive)
		}},
		step{command: func(dir string) []string {
			return skopeo("oci-archive:"+archive+":1", "oci:"+filepath.Join(dir, "layout")+":1")
		}})
	if err != nil {
		return nil, err
	}
	return []result{{name: "import six", ours: all[0], peerName: "skopeo", peer: all[1], ratio: 1}}, nil
}

// small imports, lists and removes many small images, at full durability. There is no peer:
// skopeo takes one image at a time.
func small(ctx context.Context, b *bench) ([]result, error) {
	archive, err := b.smallArchive()
	if err != nil {
		return nil, err
	}
	results := []result{
		{name: "import 2,000 images of 25 blobs", limit: 20 * time.Second},
		{name: "images, of 2,000", limit: 100 * time.Millisecond},
		{name: "rmi of 2,000"},
	}
	for range b.runs {
		root, err := os.MkdirTemp(b.work(), "small-")
		if err != nil {
			return nil, err
		}
		remove := b.stowage(root, "rmi")
		for i := range smallImages {
			remove = append(remove, smallName(i))
		}
		for i, command := range [][]string{b.stowage(root, "import", packedOnly, archive), b.stowage(root, "images"), remove} {
			one, err := b.measure(ctx, b.folder, step{command: func(string) []string { return command }})
			if err != nil {
				return nil, err
			}
			results[i].ours = append(results[i].ours, one)
		}
		if err := os.RemoveAll(root); err != nil {
			return nil, err
		}
	}
	return results, nil
}
