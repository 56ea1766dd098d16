package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	content "github.com/containerd/containerd/api/services/content/v1"
	images "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/stowage/stowage/internal/imagetest"
)

// What clients ask daemons for.
const (
	listedImages = 5000
	smallReads   = 1000 // at once
	smallRead    = 4 << 10
	fillers      = 32 // writes at once, before the clock starts
)

// A served is a store behind containerd's API, with a client.
type served struct {
	daemon *daemon
	conn   *grpc.ClientConn
	blobs  []string // digests of small ones
}

// api asks our daemon and containerd's for lists and small blobs, in turns, and has ctr fetch an image
// by each. Both live from the first round to the last.
func api(ctx context.Context, b *bench) (_ []result, err error) {
	folder := os.Getenv("BENCH_CONTAINERD")
	rows := []result{
		{name: fmt.Sprintf("daemon: list %d images", listedImages), ratio: 1, memory: maxServing},
		{name: fmt.Sprintf("daemon: %d small reads at once", smallReads), ratio: 1, memory: maxServing},
		{name: "daemon: ctr content fetch, six layers", ratio: 1, memory: maxServing},
		{name: "daemon: ctr content fetch, forty small layers", ratio: 1, memory: maxServing},
	}
	theirs := containerd{how: "its daemon", snapshotter: "overlayfs", serial: true}
	name := "containerd, " + theirs.how
	if folder != "" {
		if name, err = theirs.version(ctx, folder); err != nil {
			return nil, err
		}
	}
	for i := range rows {
		rows[i].peerName, rows[i].absent = name, folder == ""
	}
	starts := []func(context.Context, string) (*daemon, error){b.serve}
	if folder != "" {
		starts = append(starts, theirs.step(folder, "", "").beside)
	}
	var sides []*served
	for _, start := range starts {
		s, drop, failed := b.filledServer(ctx, start)
		if failed != nil {
			return nil, failed
		}
		defer func() { err = errors.Join(err, drop()) }()
		sides = append(sides, s)
	}
	for row, ask := range []func(context.Context, *served) error{listAll, readAll} {
		for range 4 * b.runs {
			for side, to := range [][]sample{rows[row].ours, rows[row].peer}[:len(sides)] {
				one, err := sides[side].timed(ctx, ask)
				if err != nil {
					return nil, err
				}
				if to = append(to, one); side == 0 {
					rows[row].ours = to
				} else {
					rows[row].peer = to
				}
			}
		}
	}
	if folder == "" {
		return rows[:2], nil // there is no ctr
	}
	for row, image := range []string{sixLayers, fortyLayers} {
		reference, err := b.image(ctx, image)
		if err != nil {
			return nil, err
		}
		fetch := func(dir string) []string {
			return []string{filepath.Join(folder, "ctr"), "--address", socket(dir), "content", "fetch", "--plain-http", reference}
		}
		all, err := b.turns(ctx, b.folder, step{beside: starts[0], command: fetch}, step{beside: starts[1], command: fetch})
		if err != nil {
			return nil, err
		}
		rows[2+row].ours, rows[2+row].peer = all[0], all[1]
	}
	return rows, nil
}

// maxServing is the memory that the daemon may use while it answers a thousand requests.
const maxServing = 250 << 20

// serve starts our daemon on a store in dir, as containerd's is started.
func (b *bench) serve(ctx context.Context, dir string) (*daemon, error) {
	d, err := startDaemon(os.Environ(), b.binary, "--root", filepath.Join(dir, "root"), "serve", "--address", socket(dir))
	if err != nil {
		return nil, err
	}
	if err := d.answers(ctx, []string{b.binary, "--address", socket(dir), "namespace", "ls"}); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// filledServer starts a daemon that has many names of an image, and many small blobs.
func (b *bench) filledServer(ctx context.Context, start func(context.Context, string) (*daemon, error)) (_ *served, drop func() error, err error) {
	dir, remove, err := b.folder(ctx)
	if err != nil {
		return nil, nil, err
	}
	s := &served{}
	drop = remove
	if s.daemon, err = start(ctx, dir); err == nil {
		drop = func() error { return errors.Join(s.daemon.stop(), remove()) }
		s.conn, err = grpc.NewClient("unix://"+socket(dir), grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	if err == nil {
		stop := drop
		drop = func() error { return errors.Join(s.conn.Close(), stop()) }
		err = s.fill(inDefault(ctx))
	}
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	return s, drop, nil
}

func inDefault(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", "default")
}

func (s *served) fill(ctx context.Context) error {
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, imagetest.Seeded(1, 1<<20))}.Build("")
	if err != nil {
		return err
	}
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(fillers)
	for _, blob := range img.Blobs {
		body, err := blob.Bytes()
		if err != nil {
			return err
		}
		work.Go(func() error { return s.write(wctx, body) })
	}
	for i := range smallReads {
		body := make([]byte, smallRead)
		copy(body, fmt.Sprint(i))
		s.blobs = append(s.blobs, digest.FromBytes(body).String())
		work.Go(func() error { return s.write(wctx, body) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	target := &types.Descriptor{MediaType: img.Root.MediaType, Digest: img.Root.Digest.String(), Size: img.Root.Size}
	c := images.NewImagesClient(s.conn)
	work, wctx = errgroup.WithContext(ctx)
	work.SetLimit(fillers)
	for i := range listedImages {
		work.Go(func() error {
			_, err := c.Create(wctx, &images.CreateImageRequest{Image: &images.Image{
				Name: fmt.Sprintf("registry.example.com/group/project-%d/app:v1.%d", i%100, i), Target: target, Labels: map[string]string{"k": fmt.Sprint(i)},
			}})
			return err
		})
	}
	return work.Wait()
}

func (s *served) write(ctx context.Context, body []byte) error {
	stream, err := content.NewContentClient(s.conn).Write(ctx)
	if err != nil {
		return err
	}
	d := digest.FromBytes(body).String()
	err = stream.Send(&content.WriteContentRequest{
		Action: content.WriteAction_COMMIT, Ref: "fill-" + d, Total: int64(len(body)), Expected: d, Data: body,
		Labels: map[string]string{"containerd.io/gc.root": "bench"},
	})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return errors.Join(err, stream.CloseSend())
}

// timed is one round of questions, and the memory of the daemon.
func (s *served) timed(ctx context.Context, ask func(context.Context, *served) error) (sample, error) {
	syscall.Sync()
	start := time.Now()
	err := ask(inDefault(ctx), s)
	return sample{wall: time.Since(start), peak: highWater(s.daemon.cmd.Process.Pid)}, err
}

func listAll(ctx context.Context, s *served) error {
	list, err := images.NewImagesClient(s.conn).List(ctx, &images.ListImagesRequest{}, grpc.MaxCallRecvMsgSize(16<<20))
	if err == nil && len(list.Images) != listedImages {
		err = fmt.Errorf("%d images are listed", len(list.Images))
	}
	return err
}

// readAll reads every small blob once, as containerd's client does: what it is, then what it has.
func readAll(ctx context.Context, s *served) error {
	c := content.NewContentClient(s.conn)
	work, ctx := errgroup.WithContext(ctx)
	for _, d := range s.blobs {
		work.Go(func() error {
			if _, err := c.Info(ctx, &content.InfoRequest{Digest: d}); err != nil {
				return err
			}
			stream, err := c.Read(ctx, &content.ReadContentRequest{Digest: d, Size: smallRead})
			if err != nil {
				return err
			}
			res, err := stream.Recv()
			if err == nil && len(res.Data) != smallRead {
				err = fmt.Errorf("%d bytes of a small blob", len(res.Data))
			}
			return err
		})
	}
	return work.Wait()
}
