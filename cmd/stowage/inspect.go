package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func inspectCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect REF",
		Short:   "Show the tree of descriptors below an image",
		Example: "  stowage image inspect alpine\n  stowage image inspect --format json alpine",
		Args:    cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "table")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		img, root, err := s.Inspect(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if out.value != "table" {
			return out.document(a.out, root)
		}
		fmt.Fprintln(a.out, img.Name)
		printTree(a.out, root, "", true)
		return nil
	}
	return cmd
}

func printTree(w io.Writer, n stowage.TreeNode, indent string, last bool) {
	branch, next := "├── ", "│   "
	if last {
		branch, next = "└── ", "    "
	}
	fmt.Fprintf(w, "%s%s%s %s %s %s", indent, branch, n.Place, n.Descriptor.Digest, n.Descriptor.MediaType, humanSize(n.Descriptor.Size))
	if p := n.Descriptor.Platform; p != nil {
		fmt.Fprintf(w, " %s", stowage.FormatPlatform(*p))
	}
	if !n.Present {
		fmt.Fprint(w, " (not here)")
	}
	fmt.Fprintln(w)
	for i, c := range n.Children {
		printTree(w, c, indent+next, i == len(n.Children)-1)
	}
}
