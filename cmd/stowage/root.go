package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/config"
)

// An app is one run of the command: what is common to all subcommands.
type app struct {
	in  io.Reader
	out *results
	err io.Writer
	ran string // the path of the subcommand that was chosen, for hints

	streams bool // standard output is for bytes that are worth nothing in part

	file, root, namespace, sync   string
	address                       string
	progress, logLevel, logFormat string

	ctx   context.Context // of the command
	conf  *config.Config
	log   *slog.Logger
	store *stowage.Store
	ended func(stowage.Act) // see [stowage.Options]
}

func (a *app) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stowage",
		Short: "Keep container images: pull, push, unpack, mount, check, export, import",
		Long: `Stowage keeps container images in a folder: it pulls them from registries and pushes them
there, unpacks and mounts them, and lists, checks, exports and imports them. An image that
it lists as complete can be mounted and exported: now, offline, and after a power cut.`,
		Example: `  stowage pull alpine
  stowage images
  stowage image mount alpine /mnt
  stowage save -o alpine.tar alpine
  stowage load -i alpine.tar`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              groupArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.setup(cmd) },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		a.ran = cmd.CommandPath()
		return usageError{err}
	})
	f := cmd.PersistentFlags()
	f.StringVar(&a.root, "root", "", "folder of the store (STOWAGE_ROOT; default /var/lib/stowage as root, $XDG_DATA_HOME/stowage otherwise)")
	f.StringVar(&a.address, "address", "", "containerd-compatible `SOCKET` to work on in place of a folder (STOWAGE_ADDRESS, then CONTAINERD_ADDRESS)")
	f.StringVarP(&a.namespace, "namespace", "n", "", "namespace (STOWAGE_NAMESPACE, then CONTAINERD_NAMESPACE; default \"default\")")
	f.StringVar(&a.file, "config", "", "configuration file (STOWAGE_CONFIG; default "+config.DefaultFile+", which may be absent)")
	f.StringVar(&a.progress, "progress", "auto", "auto, bars, plain, json or none; on standard error")
	f.StringVar(&a.logLevel, "log-level", "", "debug, info, warn or error; logs are on standard error (default warn, of a daemon info)")
	f.StringVar(&a.logFormat, "log-format", "text", "text or json")
	f.StringVar(&a.sync, "sync", "", "full or none: whether bytes are forced to the disk (default full)")

	pull, push, images, tag, rmi := pullCommand, pushCommand, lsCommand, tagCommand, rmCommand
	image := group("image", "Work with images", []string{"i"},
		pull(a, "pull"), push(a, "push"), copyCommand(a, "copy"), images(a, "ls"), infoCommand(a), inspectCommand(a), tag(a, "tag"), rmi(a, "rm"), restoreCommand(a), pruneCommand(a),
		labelImageCommand(a), checkCommand(a), exportCommand(a, "export"), importCommand(a, "import"),
		mountCommand(a), unmountCommand(a), unpackCommand(a), usageCommand(a))
	cmd.AddCommand(image,
		pull(a, "pull"), push(a, "push"), copyCommand(a, "copy"), images(a, "images"), tag(a, "tag"), rmi(a, "rmi"),
		saveCommand(a), loadCommand(a), exportCommand(a, "export"), importCommand(a, "import"),
		registryCommand(a), loginCommand(a), logoutCommand(a),
		contentCommand(a), snapshotCommand(a), gcCommand(a), whyCommand(a), duCommand(a), doctorCommand(a), leaseCommand(a), namespaceCommand(a), serveCommand(a), configCommand(a), versionCommand(a), completionCommand(), manCommand())
	everyCommand(cmd, func(c *cobra.Command) {
		if c.Args != nil {
			check := c.Args
			c.Args = func(cmd *cobra.Command, args []string) error {
				a.ran = cmd.CommandPath()
				if err := check(cmd, args); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
	})
	return cmd
}

func everyCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		everyCommand(c, f)
	}
}

// group makes a command that only holds others.
func group(name, short string, aliases []string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Aliases: aliases, Args: groupArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(subs...)
	return cmd
}

// groupArgs refuses what is not a subcommand, with those that are meant perhaps.
func groupArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = min(2, len(args[0])/2) // anything is near to a word of three letters
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("%s", msg)
}

// setup reads the configuration; flags have the last word.
func (a *app) setup(cmd *cobra.Command) error {
	a.ran = cmd.CommandPath()
	level := slog.LevelWarn
	if cmd.Name() == "serve" {
		level = slog.LevelInfo
	}
	if a.logLevel != "" {
		if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
			return usagef("--log-level %q: want debug, info, warn or error", a.logLevel)
		}
	}
	switch a.logFormat {
	case "text":
		a.log = slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(a.err, &slog.HandlerOptions{Level: level}))
	default:
		return usagef("--log-format %q: want text or json", a.logFormat)
	}
	switch a.progress {
	case "auto", "bars", "plain", "json", "none":
	default:
		return usagef("--progress %q: want auto, bars, plain, json or none", a.progress)
	}
	c, err := config.Load(a.file, os.Getenv, os.Getuid())
	if err != nil {
		return err
	}
	if a.root != "" && a.address != "" {
		return usagef("--root names a folder and --address a socket: choose one")
	}
	if a.root != "" {
		c.Address = "" // which the environment names
	}
	a.ctx, a.conf = cmd.Context(), c
	a.set("root", &c.Root, "root", a.root)
	a.set("address", &c.Address, "address", a.address)
	a.set("namespace", &c.Namespace, "namespace", a.namespace)
	a.set("sync", &c.Sync, "sync", a.sync)
	if c.Sync != "full" && c.Sync != "none" {
		return usagef("--sync %q: want full or none", c.Sync)
	}
	return a.checkSnapshotter(cmd)
}

// set gives a key of the configuration the value of a flag, if it has one.
func (a *app) set(key string, to *string, flag, value string) {
	if value != "" {
		*to = value
		a.conf.Note(key, "--"+flag)
	}
}

// open opens the store. r says how registries are reached.
func (a *app) open(r stowage.RegistryOptions) (*stowage.Store, error) {
	o := stowage.Options{
		Namespace: a.conf.Namespace, NoSync: a.conf.Sync == "none", Registry: r, Log: a.log,
		Snapshotter: a.conf.Snapshotter, Proxies: a.proxies(), Unpack: stowage.UnpackLimits{
			Size: a.conf.Unpack.MaxSize, Entries: a.conf.Unpack.MaxEntries, Ratio: a.conf.Unpack.MaxRatio,
			Losses: a.conf.Unpack.Losses, Filter: a.conf.Unpack.Filter,
		},
		GC: a.gcOptions(), Ended: a.ended, Context: a.ctx, Progress: stowage.SerialProgress(plain(a.err)),
		Quarantine: filepath.Join(a.conf.Root, "quarantine"),
	}
	var s *stowage.Store
	var err error
	if a.conf.Address != "" {
		s, err = stowage.Connect(a.conf.Address, o)
	} else {
		s, err = stowage.Open(a.conf.Root, o)
	}
	if err != nil {
		return nil, err
	}
	a.store = s
	return s, nil
}

// proxies are the snapshotters of other programs that were configured.
func (a *app) proxies() map[string]stowage.ProxySnapshotter {
	list := map[string]stowage.ProxySnapshotter{}
	for name, p := range a.conf.Snapshotters {
		list[name] = stowage.ProxySnapshotter(p)
	}
	return list
}

// gcOptions are what was configured of collection.
func (a *app) gcOptions() stowage.GCOptions {
	o := stowage.GCOptions{
		Grace: time.Duration(a.conf.GC.Grace), OnRemoval: a.conf.GC.OnRemoval, DiscardUnpacked: a.conf.GC.DiscardUnpacked,
		High: stowage.Watermark(a.conf.GC.High), Low: stowage.Watermark(a.conf.GC.Low),
	}
	if o.Grace == 0 {
		o.Grace = -1 // which is what none is called there
	}
	return o
}

// local opens the store for work that asks no registry.
func (a *app) local() (*stowage.Store, error) { return a.open(stowage.RegistryOptions{}) }

func (a *app) close() error {
	if a.store == nil {
		return nil
	}
	return a.store.Close()
}

// stdin tells whether a file argument stands for standard input or output.
func std(name string) bool { return name == "" || name == "-" }

// parseLabels reads K=V arguments; K= stands for removal.
func parseLabels(args []string) (map[string]string, error) {
	m := map[string]string{}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return nil, usagef("label %q: want KEY=VALUE, or KEY= to remove it", a)
		}
		m[k] = v
	}
	return m, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// choiceFlags adds --platform and --all-platforms.
type choiceFlags struct {
	platforms []string
	all       bool
}

func (c *choiceFlags) add(cmd *cobra.Command, of string) {
	cmd.Flags().StringArrayVar(&c.platforms, "platform", nil, "platform "+of+", such as linux/arm64 (repeatable)")
	cmd.Flags().BoolVar(&c.all, "all-platforms", false, "every platform that the image lists")
	cmd.MarkFlagsMutuallyExclusive("platform", "all-platforms")
}

func (c *choiceFlags) choice() (stowage.Choice, error) {
	choice := stowage.Choice{All: c.all}
	for _, s := range c.platforms {
		p, err := stowage.ParsePlatform(s)
		if err != nil {
			return choice, usagef("--platform %s: %w", s, err)
		}
		choice.Platforms = append(choice.Platforms, p)
	}
	return choice, nil
}

// registryFlags say how registries are reached.
type registryFlags struct {
	plainHTTP bool
	hostsDirs []string
	user      string
	limitRate string
}

func (r *registryFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&r.plainHTTP, "plain-http", false, "speak HTTP without TLS (registries on loopback: always)")
	cmd.Flags().StringArrayVar(&r.hostsDirs, "hosts-dir", nil, "folder with each registry's hosts.toml (repeatable)")
	cmd.Flags().StringVarP(&r.user, "user", "u", "", "USER[:PASS]; without PASS it is asked for (STOWAGE_USERNAME and STOWAGE_PASSWORD)")
	cmd.Flags().StringVar(&r.limitRate, "limit-rate", "", "bytes a second for all transfers together, such as 500k or 10M")
}
