package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
)

// asPeers is what is compared with the peers. When nothing is asked of them they flush the blobs,
// and leave files that were unpacked to the kernel. stowage flushes both or nothing, so here it
// flushes nothing, and the blobs are flushed after it, on the same clock.
const asPeers = none

// unpackPull pulls and unpacks, at full durability or asPeers.
func (b *bench) unpackPull(dir, snapshotter, reference string, flags ...string) []string {
	args := append(flags, "pull", "--snapshotter", snapshotter, reference)
	return b.stowage(filepath.Join(dir, "store"), args...)
}

// unpackStep is a pull beside the peers. image is the name of what reference names.
func (b *bench) unpackStep(snapshotter, image, reference string) step {
	return step{
		command: func(dir string) []string {
			pull := b.unpackPull(dir, snapshotter, reference, asPeers)
			script := `"$@" && sync --data ` + filepath.Join(dir, "store/content/blobs/sha256") + "/*"
			return append([]string{"sh", "-c", script, "sh"}, pull...)
		},
		check: func(dir string) []string {
			return unpacked(image, b.stowage(filepath.Join(dir, "store"), "snapshot", "ls", "--snapshotter", snapshotter))
		},
	}
}

// unpacked is a command that succeeds when each layer of an image has a snapshot in what list
// prints: containerd's transfer service only pulls when it cannot unpack as it is set up.
func unpacked(image string, list []string) []string {
	script := fmt.Sprintf(`test $("$@" | grep -c Committed) = %d`, len(layersOf(image)))
	return append([]string{"sh", "-c", script, "sh"}, list...)
}

// unpack pulls an image into overlay and erofs snapshots beside the peers that are here. overlay
// and erofs are the most that stowage may take of containerd's time, however containerd is set up,
// and so of its best; 0 asks for nothing.
func unpack(name string, overlay, erofs float64) func(context.Context, *bench) ([]result, error) {
	return func(ctx context.Context, b *bench) ([]result, error) {
		reference, err := b.image(ctx, name)
		if err != nil {
			return nil, err
		}
		peers, err := unpackPeers(ctx, name, reference)
		if err != nil {
			return nil, err
		}
		// One pull that does not count: the registry's files are in memory for all that do.
		if _, err := b.measure(ctx, b.folder, skopeoPull(reference)); err != nil {
			return nil, err
		}
		ratios := map[string]float64{"overlay": overlay, "erofs": erofs}
		snapshotters := []string{"overlay", "erofs"}
		var steps []step
		for _, snapshotter := range snapshotters {
			steps = append(steps, b.unpackStep(snapshotter, name, reference))
		}
		for _, p := range peers {
			if !p.absent {
				steps = append(steps, p.step)
			}
		}
		all, err := b.turns(ctx, b.ext4, steps...)
		if err != nil {
			return nil, err
		}
		ours := map[string][]sample{}
		for i, snapshotter := range snapshotters {
			ours[snapshotter] = all[i]
		}
		next := len(snapshotters)
		var rows []result
		for _, p := range peers {
			row := result{
				name: "unpack " + name + ", " + p.against, ours: ours[p.against], memory: maxUnpackPeak,
				peerName: p.name, absent: p.absent,
			}
			if p.demanding {
				row.ratio = ratios[p.against]
			}
			if !p.absent {
				row.peer = all[next]
				next++
			}
			rows = append(rows, row)
		}
		return rows, nil
	}
}

// durableUnpack compares a durable pull with one that leaves all to the kernel, and with what a
// flush costs: of the same blobs and files, written by cp. One flush is what durability may cost.
func durableUnpack(ctx context.Context, b *bench) ([]result, error) {
	reference, err := b.image(ctx, appImage)
	if err != nil {
		return nil, err
	}
	tree, err := b.tree(ctx, appImage, reference)
	if err != nil {
		return nil, err
	}
	loose := step{command: func(dir string) []string { return b.unpackPull(dir, "overlay", reference, "--sync=none") }}
	all, err := b.turns(ctx, b.ext4,
		step{command: func(dir string) []string { return b.unpackPull(dir, "overlay", reference) }},
		loose,
		step{command: func(dir string) []string {
			return append([]string{"sh", "-c", `"$@" && sync -f "$3"`, "sh"}, loose.command(dir)...)
		}},
		step{
			prepare: func(dir string) []string { return []string{"cp", "-a", tree, dir} },
			command: func(dir string) []string { return []string{"sync", "-f", dir} },
		})
	if err != nil {
		return nil, err
	}
	allowed := make([]sample, b.runs)
	for i := range allowed {
		allowed[i].wall = all[1][i].wall + all[3][i].wall
		allowed[i].peak = all[1][i].peak
	}
	row := result{name: "unpack app, durable", ours: all[0], memory: maxUnpackPeak}
	flushed, copied := row, row
	flushed.peerName, flushed.peer = "stowage --sync=none, then sync -f", all[2]
	copied.peerName, copied.peer, copied.ratio = "stowage --sync=none, and sync -f after cp -a", allowed, 1
	return []result{flushed, copied}, nil
}

// tree is a folder with the blobs of an image, and with the files of each of its layers.
func (b *bench) tree(ctx context.Context, name, reference string) (string, error) {
	tree := filepath.Join(b.kept(), name+".tree")
	return tree, once(tree, func(part string) error {
		commands := [][]string{{"mkdir", part}, skopeo("docker://"+reference, "oci:"+filepath.Join(part, "layout")+":1")}
		for i, names := range layersOf(name) {
			files, err := b.packages(ctx, names)
			if err != nil {
				return err
			}
			for _, file := range files {
				commands = append(commands, []string{"dpkg-deb", "-x", file, filepath.Join(part, strconv.Itoa(i))})
			}
		}
		for _, command := range commands {
			if _, err := runProcess(ctx, command); err != nil {
				return err
			}
		}
		return nil
	})
}
