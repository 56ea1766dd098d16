package config

// CRI is the section of the image service of Kubernetes. What it names is looked at by the daemon.
type CRI struct {
	// Snapshotter unpacks what is pulled; empty: the one that everything else is unpacked with.
	Snapshotter string `toml:"snapshotter"`
	// RuntimeSnapshotters say which one images for a runtime handler are unpacked with instead.
	RuntimeSnapshotters map[string]string `toml:"runtime_snapshotters"`
	// PinnedImages are references that kubelet does not collect, such as the image of sandboxes.
	PinnedImages []string `toml:"pinned_images"`
}
