package main

import "github.com/spf13/cobra"

func contentCommand(a *app) *cobra.Command {
	return group("content", "Work with blobs", []string{"c"},
		contentLsCommand(a), contentInfoCommand(a), contentGetCommand(a), contentFetchCommand(a),
		contentVerifyCommand(a), contentExportCommand(a), contentImportCommand(a), contentRmCommand(a),
		contentLabelCommand(a), contentIngestsCommand(a), contentIngestCommand(a), contentAbortCommand(a),
		contentPruneCommand(a))
}
