package registrytest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// mtu is larger than on most networks, so that few packets have to be carried.
const mtu = 16_000

// A Wire joins two network namespaces that have nothing else. Every packet arrives late, and a
// flow, which is one direction of a connection, is only so fast, whatever goes on beside it. It
// stands for what netem does, which not every kernel has. It needs root and the program ip.
type Wire struct {
	Near, Far *End

	delay time.Duration // one way
	rate  int           // bytes a second of a flow; 0: no bound

	mu      sync.Mutex
	carried map[flow]int64 // bytes
	packets sync.WaitGroup // everything that carries
}

// A flow is told by the ports of TCP, as there are only two addresses.
type flow struct {
	toNear       bool
	source, dest uint16
}

// An End is one network namespace.
type End struct {
	calls   chan func() // run on the thread that lives there
	device  *os.File
	address string
	path    string
}

// NewWire makes a wire on which packets take delay to the other end, and a flow carries rate bytes
// a second; 0: any number. The caller closes it.
func NewWire(delay time.Duration, rate int) (*Wire, error) {
	w := &Wire{delay: delay, rate: rate, carried: map[flow]int64{}}
	var err error
	// The network is one that is kept for documentation (RFC 5737).
	if w.Near, err = newEnd("192.0.2.1"); err != nil {
		return nil, err
	}
	if w.Far, err = newEnd("192.0.2.2"); err != nil {
		return nil, errors.Join(err, w.Near.close())
	}
	w.packets.Go(func() { w.carry(w.Near.device, w.Far.device, false) })
	w.packets.Go(func() { w.carry(w.Far.device, w.Near.device, true) })
	return w, nil
}

// Close takes the wire down, and whatever still uses it is cut off.
func (w *Wire) Close() error {
	err := errors.Join(w.Near.close(), w.Far.close())
	w.packets.Wait()
	return err
}

// newEnd makes a network namespace with one device, which leads to whoever reads its file.
func newEnd(address string) (*End, error) {
	e := &End{calls: make(chan func()), address: address}
	made := make(chan error)
	go func() {
		// Not unlocked: the thread ends with this, and the namespace with it.
		runtime.LockOSThread()
		e.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- e.setUp()
		for call := range e.calls {
			call()
		}
	}()
	if err := <-made; err != nil {
		return nil, errors.Join(fmt.Errorf("make an end of a wire: %w", err), e.close())
	}
	return e, nil
}

func (e *End) setUp() (err error) {
	if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if e.device, err = openTun("wire"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", e.address + "/24", "dev", "wire"},
		{"link", "set", "wire", "mtu", strconv.Itoa(mtu), "up"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

func (e *End) close() (err error) {
	close(e.calls)
	if e.device != nil {
		err = e.device.Close()
	}
	return err
}

// Path is the file that stands for the namespace while the wire is there: what nsenter takes.
func (e *End) Path() string { return e.path }

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}

func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make device %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// Do runs f in the namespace. Sockets that f opens and processes that it starts stay there.
func (e *End) Do(f func() error) error {
	done := make(chan error)
	e.calls <- func() { done <- f() }
	return <-done
}

// Listen listens on a free port of this end.
func (e *End) Listen() (l net.Listener, err error) {
	err = e.Do(func() error {
		l, err = net.Listen("tcp", net.JoinHostPort(e.address, "0"))
		return err
	})
	return l, err
}

// A parcel is a packet and when it is to arrive.
type parcel struct {
	bytes []byte
	at    time.Time
}

// carry takes packets from one device to another until from is closed.
func (w *Wire) carry(from, to *os.File, toNear bool) {
	lanes := map[flow]chan parcel{}
	ready := map[flow]time.Time{} // when what was sent so far has left
	defer func() {
		for _, lane := range lanes {
			close(lane)
		}
	}()
	buf := make([]byte, mtu+1)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		f := flowOf(buf[:n], toNear)
		w.mu.Lock()
		w.carried[f] += int64(n)
		w.mu.Unlock()
		lane := lanes[f]
		if lane == nil {
			lane = make(chan parcel, 4096)
			lanes[f] = lane
			w.packets.Go(func() { deliver(lane, to) })
		}
		leaves := time.Now()
		if ready[f].After(leaves) {
			leaves = ready[f]
		}
		if w.rate > 0 {
			leaves = leaves.Add(time.Duration(n) * time.Second / time.Duration(w.rate))
		}
		ready[f] = leaves
		select {
		case lane <- parcel{append([]byte(nil), buf[:n]...), leaves.Add(w.delay)}:
		default: // as a full router does
		}
	}
}

func deliver(lane chan parcel, to *os.File) {
	for p := range lane {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.bytes); err != nil {
			continue // the other end is being taken down, or has no room: networks lose packets
		}
	}
}

// flowOf reads the ports of an IPv4 packet; what is no TCP is all one flow.
func flowOf(packet []byte, toNear bool) flow {
	f := flow{toNear: toNear}
	if len(packet) < 24 || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_TCP {
		return f
	}
	header := int(packet[0]&15) * 4
	if len(packet) >= header+4 {
		f.source = binary.BigEndian.Uint16(packet[header:])
		f.dest = binary.BigEndian.Uint16(packet[header+2:])
	}
	return f
}

// Received lists how many bytes came to the near end, by connection.
func (w *Wire) Received() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []int64
	for f, n := range w.carried {
		if f.toNear && f.source != 0 {
			list = append(list, n)
		}
	}
	return list
}
