package unpack

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/snapshot"
)

// Claim asks a remote snapshotter which layers of an image it has already, from the lowest up to
// the first that it does not have, and adds their snapshots. Their blobs, which it returns, need
// not be fetched. Of a snapshotter that is not remote there are none.
func (r *Run) Claim(ctx context.Context, img Image, name string) (lazy map[image.Digest]bool, err error) {
	driver, ok := r.driver().(snapshot.Remote)
	if !ok {
		return nil, nil
	}
	lazy = map[image.Digest]bool{}
	chain := image.ChainIDs(img.DiffIDs)
	rows, err := r.u.Snapshots.Chain(ctx, chain)
	if err != nil {
		return nil, err
	}
	var below []string
	parent := ""
	for i, id := range chain {
		row := metadata.Snapshot{
			Key: id.String(), Kind: snapshot.Committed, Parent: parent, DiffID: img.DiffIDs[i], Lazy: true, Blob: img.Layers[i].Digest,
		}
		if i < len(rows) {
			row = rows[i]
		} else if claimed, err := r.claimLayer(ctx, driver, &row, id, below, claimLabels(img, i, id, name)); err != nil || !claimed {
			return lazy, err
		}
		if row.Lazy {
			lazy[row.Blob] = true
		}
		below = append(below, r.u.Snapshots.Path(row.Folder))
		parent = row.Key
	}
	return lazy, nil
}

// claimLayer asks for one layer.
func (r *Run) claimLayer(ctx context.Context, driver snapshot.Remote, row *metadata.Snapshot, id image.Digest, below []string, labels map[string]string) (bool, error) {
	j, err := r.begin(ctx, id, row.DiffID, false)
	if errdefs.IsUnavailable(err) {
		return false, nil // whoever has it unpacks it
	}
	if err != nil {
		return false, err
	}
	claimed, err := driver.Claim(ctx, j.folder.Path, below, labels)
	if err != nil || !claimed {
		return false, errors.Join(err, j.drop())
	}
	j.bound = true
	row.Folder, row.Labels = j.folder.Name, labels
	r.jobs = append(r.jobs, j)
	r.put(*row)
	return true, nil
}

// claimLabels says what a layer is, in the words that remote snapshotters for containerd know: what
// its manifest says to them, but for the owners of files, and what containerd's CRI says.
func claimLabels(img Image, i int, id image.Digest, name string) map[string]string {
	const forSnapshotters = "containerd.io/snapshot/"
	const prefix = forSnapshotters + "cri."
	var upwards []string
	room := 3 << 10 // bytes; a label has at most 4096 with its key
	for _, d := range img.Layers[i:] {
		if room -= len(d.Digest) + 1; room < 0 {
			break
		}
		upwards = append(upwards, d.Digest.String())
	}
	labels := map[string]string{}
	for k, v := range img.Layers[i].Annotations {
		if strings.HasPrefix(k, forSnapshotters) && k != forSnapshotters+"uidmapping" && k != forSnapshotters+"gidmapping" && len(k)+len(v) <= 4<<10 {
			labels[k] = v
		}
	}
	labels["containerd.io/snapshot.ref"] = id.String()
	labels[prefix+"image-ref"] = name
	labels[prefix+"manifest-digest"] = img.Manifest.String()
	labels[prefix+"layer-digest"] = img.Layers[i].Digest.String()
	labels[prefix+"image-layers"] = strings.Join(upwards, ",")
	return labels
}
