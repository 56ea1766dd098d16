package main

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func restoreCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "restore REF...",
		Short: "Bring names back that were removed",
		Long: `Brings names back that "image rm" or "image prune" took away, with their labels, as long as
their content has not been collected. "images --all" lists them. REF is the name, the digest
that it stood for, or the beginning of one; of several names with one digest the one comes
back that was removed last.

Prints the names that are back. Nothing is fetched: an image of which something was collected
is partial, and "pull" gets the rest.`,
		Example: "  stowage image restore alpine\n  stowage images --all --filter state=removed",
		Args:    cobra.MinimumNArgs(1),
	}
	cmd.Flags().BoolVar(&force, "force", false, "move a name that stands for another image by now")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		var failed error
		for _, name := range args {
			img, err := s.RestoreImage(cmd.Context(), name, force)
			if err != nil {
				failed = errors.Join(failed, restoreHint(err))
				continue
			}
			fmt.Fprintln(a.out, img.Name)
			if img.State == stowage.Partial {
				fmt.Fprintf(a.err, "warning: %s is partial, because some of it was collected; `stowage pull %s` gets it\n", img.Name, img.Name)
			}
		}
		return failed
	}
	return cmd
}

// restoreHint adds what helps who cannot have a name back.
func restoreHint(err error) error {
	switch {
	case errdefs.IsNotFound(err):
		return hinted{err, "`stowage images --all` lists what can be restored; `stowage pull` brings back what cannot"}
	case errdefs.IsAlreadyExists(err):
		return hinted{err, "--force moves the name back"}
	}
	return err
}
