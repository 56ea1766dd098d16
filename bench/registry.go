package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// What the far registry is like.
const (
	roundTrip = 50 * time.Millisecond
	farRate   = 20_000_000 // bytes a second of one connection
)

// A far is the registry at the end of a wire.
type far struct {
	wire *registrytest.Wire
	host string // as the near end reaches it

	listener    net.Listener
	connections sync.WaitGroup
}

// far puts the registry at the end of a wire.
func (b *bench) far() (*far, error) {
	wire, err := registrytest.NewWire(roundTrip/2, farRate)
	if err != nil {
		return nil, err
	}
	f := &far{wire: wire}
	if f.listener, err = wire.Far.Listen(); err != nil {
		return nil, errors.Join(err, wire.Close())
	}
	f.host = f.listener.Addr().String()
	f.connections.Go(func() {
		for {
			from, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.connections.Go(func() { relay(from, b.host) })
		}
	})
	return f, nil
}

// relay carries one connection on to a server, until either side ends it.
func relay(from net.Conn, host string) {
	to, err := net.Dial("tcp", host)
	if err == nil {
		go func() {
			_, _ = io.Copy(to, from) // its end is the end of the connection
			_ = to.Close()
		}()
		_, _ = io.Copy(from, to)
	}
	_ = from.Close()
}

func (f *far) close() error {
	err := errors.Join(f.listener.Close(), f.wire.Close())
	f.connections.Wait()
	return err
}

// near is a command at the near end.
func (f *far) near(command []string) []string {
	return append([]string{"nsenter", "--net=" + f.wire.Near.Path()}, command...)
}

// farLarge pulls one layer of 1 GB from far away, beside skopeo, which uses one connection.
func farLarge(ctx context.Context, b *bench) (_ []result, err error) {
	if _, err := b.image(ctx, oneLayer); err != nil {
		return nil, err
	}
	f, err := b.far()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	reference := f.host + "/bench/" + oneLayer + ":1"
	all, err := b.turns(ctx, b.folder,
		step{command: func(dir string) []string {
			return f.near(b.stowage(dir, none, "pull", packedOnly, "--plain-http", reference))
		}},
		step{command: func(dir string) []string {
			return f.near(skopeo("docker://"+reference, "oci:"+filepath.Join(dir, "layout")+":1"))
		}})
	if err != nil {
		return nil, err
	}
	return []result{{name: "pull one large layer, far", ours: all[0], peerName: "skopeo, one connection", peer: all[1], ratio: 1. / 3}}, nil
}

// leastTrips is how many round trips nobody can do without: one to connect, one each for what the
// tag stands for, for the manifest and for the blobs.
const leastTrips = 4

// farSmall pulls 40 small layers from far away. What it takes beside the same pull from here is
// round trips.
func farSmall(ctx context.Context, b *bench) (_ []result, err error) {
	reference, err := b.image(ctx, fortyLayers)
	if err != nil {
		return nil, err
	}
	f, err := b.far()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	distant := f.host + "/bench/" + fortyLayers + ":1"
	all, err := b.turns(ctx, b.folder,
		step{command: func(dir string) []string {
			return f.near(b.stowage(dir, none, "pull", packedOnly, "--plain-http", distant))
		}},
		step{command: func(dir string) []string { return b.stowage(dir, none, "pull", packedOnly, reference) }},
		step{command: func(dir string) []string {
			return f.near(skopeo("docker://"+distant, "oci:"+filepath.Join(dir, "layout")+":1"))
		}})
	if err != nil {
		return nil, err
	}
	trips := (median(all[0]) - median(all[1])).Seconds() / roundTrip.Seconds()
	return []result{
		{name: "pull forty small layers, far", ours: all[0], peerName: "skopeo", peer: all[2], ratio: 1},
		{
			name: fmt.Sprintf("the same: %.1f round trips", trips), ours: all[0], peerName: "stowage, from here", peer: all[1],
			asked: fmt.Sprintf("≤ %d trips", leastTrips+6), met: trips <= leastTrips+6,
		},
	}, nil
}

// push sends an image to a registry that has nothing, and then again.
func push(ctx context.Context, b *bench) ([]result, error) {
	reference, err := b.image(ctx, pushImage)
	if err != nil {
		return nil, err
	}
	store, err := b.filled(ctx, reference)
	if err != nil {
		return nil, err
	}
	layout := filepath.Join(b.work(), "push-layout")
	if _, err := runProcess(ctx, skopeo("docker://"+reference, "oci:"+layout+":1")); err != nil {
		return nil, err
	}
	send := map[bool]func(target string) []string{
		true:  func(target string) []string { return b.stowage(store, "push", reference, target) },
		false: func(target string) []string { return skopeo("oci:"+layout+":1", "docker://"+target) },
	}
	var first, again [2][]sample
	for range b.runs {
		for side, ours := range []bool{true, false} {
			one, two, err := b.sendTwice(ctx, send[ours])
			if err != nil {
				return nil, err
			}
			first[side], again[side] = append(first[side], one), append(again[side], two)
		}
	}
	return []result{
		{name: "push " + pushImage, ours: first[0], peerName: "skopeo", peer: first[1], ratio: 1},
		{name: "push " + pushImage + " again", ours: again[0], peerName: "skopeo", peer: again[1], ratio: 1},
	}, nil
}

// sendTwice measures a push to a registry that is new, and a second one. Skopeo remembers which
// registry has which blobs, and would have them mounted.
func (b *bench) sendTwice(ctx context.Context, send func(target string) []string) (first, again sample, err error) {
	dir, drop, err := b.folder(ctx)
	if err != nil {
		return first, again, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	registry, err := registrytest.StartDebian(ctx, dir)
	if err != nil {
		return first, again, err
	}
	defer func() { err = errors.Join(err, registry.Stop()) }()
	command := send(registry.Host + "/push/" + pushImage + ":1")
	syscall.Sync() // nobody pays for what others wrote
	if first, err = runProcess(ctx, command); err != nil {
		return first, again, err
	}
	again, err = runProcess(ctx, command)
	return first, again, err
}

// deadMirror pulls with a mirror in front that takes connections and never answers.
func deadMirror(ctx context.Context, b *bench) (_ []result, err error) {
	const patience = time.Second
	reference, err := b.image(ctx, sixLayers)
	if err != nil {
		return nil, err
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, silent.Close()) }()
	go func() {
		for {
			if _, err := silent.Accept(); err != nil { // kept open until this process ends
				return
			}
		}
	}()
	folder := filepath.Join(b.work(), "hosts", b.host)
	text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ndial_timeout = %q\n", b.host, silent.Addr(), patience)
	err = os.MkdirAll(folder, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "hosts.toml"), []byte(text), 0o644)
	}
	if err != nil {
		return nil, err
	}
	all, err := b.turns(ctx, b.folder,
		step{command: func(dir string) []string {
			return b.stowage(dir, none, "pull", packedOnly, "--hosts-dir", filepath.Dir(folder), reference)
		}},
		step{command: func(dir string) []string { return b.stowage(dir, none, "pull", packedOnly, reference) }})
	if err != nil {
		return nil, err
	}
	late := median(all[0]) - median(all[1])
	return []result{{
		name: "pull six, silent mirror first: " + short(late) + " more", ours: all[0], peerName: "stowage, no mirror", peer: all[1],
		asked: "≤ " + (2 * patience).String() + " more", met: late <= 2*patience,
	}}, nil
}
