// Package erofs keeps layers so that the kernel's EROFS shows a stack of them as one filesystem,
// without a file made for any of theirs.
//
// Of each layer it keeps the tar as it is, which is the data, and a list of its entries. Neither
// depends on the layers below, so whoever has the same layer shares both. For a stack of layers
// it writes an index: a small image of all folders and attributes, as the entries mean them one
// after another, whose files are in the tars. Such an image is mounted with the index as its
// source and the tars as its devices, in the order of [Devices]:
//
//	mount -t erofs -o device=1/data,device=2/data index /mnt
//
// A block of such an image has 512 bytes, as that of a tar: so every file in it begins with a block.
// What cannot be shown in place stands behind the tar: the parts of sparse files that begin
// elsewhere in a block than in the file.
//
// The package makes files in folders that it is given and does not sync them; where these are and
// when they count is for its callers.
package erofs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The files of a layer.
const (
	dataFile    = "data"
	entriesFile = "entries"
)

// Devices lists the files that the index of these layers wants as devices, in its order.
func Devices(layers []string) []string {
	devices := make([]string, len(layers))
	for i, dir := range layers {
		devices[i] = filepath.Join(dir, dataFile)
	}
	return devices
}

// Files lists the files of a layer.
func Files(dir string) []string {
	return []string{filepath.Join(dir, dataFile), filepath.Join(dir, entriesFile)}
}

// CheckLayer tells whether the files of a layer are there, the list of entries is as it was
// written, and the data is as long as it was. Otherwise it is an [errdefs.ErrDataLoss].
func CheckLayer(dir string) error {
	text, err := loadRecords(filepath.Join(dir, entriesFile))
	if err == nil {
		var size layerSize
		if _, size, err = parseSizes(text); err == nil {
			err = checkData(filepath.Join(dir, dataFile), size)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if err != nil {
		return fmt.Errorf("erofs layer %s: %w", dir, err)
	}
	return nil
}

// WriteIndex writes the index of a stack of layers to a new file. The layers are folders of
// [WriteLayer], bottom first; the index is the same whenever it is made of the same ones. After an
// error there is no file.
//
// Errors: [errdefs.ErrInvalidArgument] for what the layers cannot mean on top of one another, such
// as a hard link to a file that is missing; [errdefs.ErrDataLoss] for a layer that is damaged;
// [errdefs.ErrResourceExhausted] for more than an image can have; [errdefs.ErrAlreadyExists] for a
// file of that name.
func WriteIndex(ctx context.Context, name string, layers []string) error {
	if err := writeIndex(ctx, name, layers); err != nil {
		return fmt.Errorf("write erofs index %s: %w", name, err)
	}
	return nil
}

func writeIndex(ctx context.Context, name string, layers []string) error {
	t, err := merge(ctx, layers)
	if err != nil {
		return err
	}
	f, err := create(name)
	if err != nil {
		return err
	}
	err = errors.Join(writeImage(ctx, f, t), f.Close())
	if err != nil {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// create makes a file that was not there.
func create(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if errors.Is(err, os.ErrExist) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	}
	return f, err
}
