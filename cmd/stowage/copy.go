package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func copyCommand(a *app, name string) *cobra.Command {
	var flags moveFlags
	cmd := &cobra.Command{
		Use:   name + " SOURCE TARGET",
		Short: "Copy an image between registries, layouts, archives and the store",
		Long: `Copies an image from one place to another, all platforms and what refers to it, as it is.
Nothing is stored on the way, and what the target has is not sent. The places are

  docker://REF              an image in a registry
  store:REF                 an image in the store; it is not unpacked there
  oci:DIR[:TAG]             the folder of an OCI layout, which is added to
  oci-archive:FILE[:REF]    an OCI layout in a tar; - as a target is standard output
  docker-archive:FILE[:REF] a tar for docker, of one platform: the host's, unless chosen

TAG and REF say what the image is called there; without one it keeps its name, and a source
must hold one image only. An archive that is compressed, or - for standard input, is read in
one go: that works for OCI layouts, to docker:// and oci:.

With one --platform, that platform's manifest is copied alone; with several, a new index of
exactly these. What stays behind is said on standard error. A source that lacks platforms of
its index is copied without them, but not to a registry. From registry to registry, what cosign
keeps under tags of its own, such as sha256-….sig, is copied too.

The last line on standard output is TARGET@DIGEST.`,
		Example: `  stowage copy docker://alpine docker://registry.example.com/mirror/alpine:3
  stowage copy docker://registry.example.com/app:1 oci:/srv/images:app-1
  stowage copy store:app:1 docker-archive:app.tar
  stowage copy oci-archive:bundle.tar:app docker://registry.example.com/app:1`,
		Args: cobra.ExactArgs(2),
	}
	flags.add(cmd, "to copy")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, err := endpoint(args[0])
		if err != nil {
			return err
		}
		to, err := endpoint(args[1])
		if err != nil {
			return err
		}
		if err := to.CheckTarget(); err != nil {
			return usageError{err}
		}
		inFile := to.Transport == stowage.ArchiveTransport || to.Transport == stowage.DockerArchiveTransport
		piped := to.Path == "-" && inFile
		if piped {
			if err := a.refuseTerminal(); err != nil {
				return err
			}
			a.streams = true
		}
		move, err := a.move(&flags)
		if err != nil {
			return err
		}
		if to.Transport == stowage.DockerArchiveTransport && len(move.choice.Platforms) > 1 {
			return usagef("a docker archive holds one platform")
		}
		o := stowage.CopyOptions{
			Choice: move.choice, Streams: move.streams, NoReferrers: flags.noReferrers, NoSync: a.conf.Sync == "none",
			Registry: move.reg, Stdin: a.in, Stdout: a.out, Progress: move.sink,
		}
		if from.Transport == stowage.StoreTransport || to.Transport == stowage.StoreTransport {
			if o.Store, err = a.open(move.reg); err != nil {
				return err
			}
		}
		res, err := stowage.Copy(cmd.Context(), from, to, o)
		move.wait()
		switch {
		case err != nil && inFile && cmd.Context().Err() != nil:
			return hinted{error: err} // nothing of it is kept
		case err != nil && from.Transport != stowage.StoreTransport:
			return missingHint(err)
		case err != nil:
			return err
		case piped:
			return a.out.Close()
		}
		return a.moved(&flags, res)
	}
	return cmd
}

// missingHint is the hint to a source that no pull completes.
func missingHint(err error) error {
	var partial *stowage.PartialError
	var missing *stowage.MissingError
	switch {
	case errors.As(err, &partial):
		return hinted{err, "`--platform P` copies what is whole"}
	case errors.As(err, &missing):
		return hinted{error: err}
	}
	return err
}

func endpoint(s string) (stowage.Endpoint, error) {
	e, err := stowage.ParseEndpoint(s)
	if err != nil {
		return e, usageError{err}
	}
	return e, nil
}
