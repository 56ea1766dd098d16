package vfs

import "io/fs"

// NoSync is fsys without durability: Sync, SyncDir and SyncAll do nothing and report success,
// and [Syncs] tells it apart. It keeps the BootID, because what processes leave unsynced can
// be believed by the next, synced or not, while the machine stays up.
func NoSync(fsys FS) FS { return noSync{fsys} }

type noSync struct{ FS }

func (noSync) SyncDir(string) error { return nil }
func (noSync) SyncAll() error       { return nil }

func (d noSync) Create(name string, perm fs.FileMode) (File, error) {
	f, err := d.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return noSyncFile{f}, nil
}

// noSyncFile hides the file's writeback too.
type noSyncFile struct{ File }

func (noSyncFile) Sync() error { return nil }
