package registrytest

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A Link stands for the way to a registry far away.
type Link struct {
	RTT  time.Duration // that a round trip takes
	Rate int64         // bytes a second that each connection brings, either way; 0: any number
}

// Listen puts the link before l: every connection that is accepted goes over it, and ends when
// its server or its client does. Making one costs a round trip too. Their addresses tell nothing.
func (k Link) Listen(l net.Listener) net.Listener { return &farListener{l, k} }

type farListener struct {
	net.Listener
	link Link
}

func (l *farListener) Accept() (net.Conn, error) {
	near, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	server, far := net.Pipe()
	half := l.link.RTT / 2
	// What the client sends first waits for the handshake, of which it saw nothing.
	go l.link.carry(far, near, 3*half, half)
	go l.link.carry(near, far, half, half)
	return server, nil
}

// A packet is on its way until a moment.
type packet struct {
	b  []byte
	at time.Time
}

// carry takes bytes from src to dst, each delay after it came, and the first ones after first. The
// end of either is the end of both.
func (k Link) carry(dst io.WriteCloser, src io.ReadCloser, first, delay time.Duration) {
	const size, window = 16 << 10, 256
	way := make(chan packet, window)
	var work sync.WaitGroup
	work.Go(func() {
		defer func() { _ = errors.Join(dst.Close(), src.Close()) }() // either may be closed already
		for p := range way {
			time.Sleep(time.Until(p.at))
			if _, err := dst.Write(p.b); err != nil {
				_ = src.Close()
				for range way { // nobody takes the rest
				}
				return
			}
		}
	})
	var free time.Time // when the line is free again
	for {
		b := make([]byte, size)
		n, err := src.Read(b)
		if n > 0 {
			now := time.Now()
			// A little is made up for, or every sleep that is too long would cost bandwidth.
			if least := now.Add(-10 * time.Millisecond); free.Before(least) {
				free = least
			}
			if k.Rate > 0 {
				free = free.Add(time.Duration(float64(n) / float64(k.Rate) * float64(time.Second)))
			}
			time.Sleep(free.Sub(now))
			if free.After(now) {
				now = free
			}
			way <- packet{b[:n], now.Add(first)}
			first = delay
		}
		if err != nil {
			break
		}
	}
	close(way)
	work.Wait()
}
