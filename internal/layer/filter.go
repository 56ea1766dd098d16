package layer

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stowage/stowage/internal/inflate"
)

// A Filter is a program that inflates gzip from its standard input to its standard output. The
// zero value is none.
type Filter struct{ path string }

// FindFilter looks for igzip (of ISA-L) on the PATH. It returns the zero Filter where there is none.
func FindFilter() Filter {
	path, err := exec.LookPath("igzip")
	if err != nil {
		return Filter{}
	}
	return Filter{path: path}
}

// String is the path of the program, or "".
func (f Filter) String() string { return f.path }

const (
	// A layer that is no longer than this is inflated here: starting a program takes longer.
	filterMin = 512 << 10
	// filterPipe is how much each pipe to and from the program holds, and filterPiece how much
	// is read and written at once. 1 MiB is what the kernel gives without privileges.
	filterPipe  = 1 << 20
	filterPiece = 256 << 10
	// maxComplaint is how much of what the program says is kept for the error.
	maxComplaint = 512

	sealSize = 16 // of filtered.seal
)

// run starts the filter on r, which reads from src.
func (f Filter) run(ctx context.Context, r io.Reader, src *source) (io.ReadCloser, error) {
	head := make([]byte, filterMin)
	n, err := io.ReadFull(r, head)
	head = head[:n]
	switch {
	case err == nil:
	case src.err != nil && src.err != io.EOF:
		return nil, fmt.Errorf("decompress layer: %w", src.err)
	default:
		return gunzip(bytes.NewReader(head))
	}
	// Fields that igzip does not look at are looked at here.
	if _, err := inflate.NewReader(bytes.NewReader(head)); err != nil {
		return nil, fmt.Errorf("decompress layer: %w", err)
	}
	r = io.MultiReader(bytes.NewReader(head), src)

	p := &filtered{src: src, fed: make(chan struct{}), buf: make([]byte, filterPiece)}
	_, _ = rand.Read(p.seal[:]) // never fails
	p.ctx = ctx
	src.ctx, p.stop = context.WithCancelCause(ctx)
	p.cmd = exec.CommandContext(src.ctx, f.path, "-d", "-c")
	// What is typed at a terminal is for us. When we are killed, the pipes end the program.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = &p.complaint
	in, err := p.start()
	if err != nil {
		p.stop(errStopped)
		return nil, fmt.Errorf("decompress layer: run %s: %w", f.path, err)
	}
	go p.feed(in, r)
	return p, nil
}

// A filtered is the output of a filter.
type filtered struct {
	ctx  context.Context         // the caller's
	stop context.CancelCauseFunc // ends the program, and what it is fed from src
	cmd  *exec.Cmd
	out  *os.File
	src  *source

	// Output, of which buf[at:end-sealSize] can be handed on: the last bytes may be the seal.
	buf     []byte
	at, end int
	size    uint32 // of all output up to there, as gzip counts
	err     error  // what is said when the output is read

	// The seal is put behind the layer as a further member. igzip stops at bytes behind a member
	// that do not begin another, and says nothing; output that ends in 16 random bytes came from
	// all of the layer.
	seal [sealSize]byte

	fed       chan struct{} // closed when all of the layer was read and tail is set
	tail      tail
	complaint complaint
}

// start starts the program and gives the file that it reads.
func (p *filtered) start() (in *os.File, err error) {
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdin.Close() }() // the program has its own
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	defer func() { _ = stdout.Close() }()
	for _, f := range []*os.File{in, out} {
		// Smaller pipes only make more turns: the user may have used up what all pipes may hold.
		_ = resizePipe(f)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.out = stdin, stdout, out
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	return in, nil
}

func resizePipe(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = c.Control(func(fd uintptr) { _, set = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, filterPipe) })
	return errors.Join(err, set)
}

// feed gives the program the layer and the seal. It reads the layer to its end even when the
// program reads no more.
func (p *filtered) feed(in *os.File, r io.Reader) {
	defer close(p.fed)
	defer func() { _ = in.Close() }() // a pipe: what was written is there
	buf := make([]byte, filterPiece)
	var refused error
	for {
		n, err := r.Read(buf)
		p.tail.add(buf[:n])
		if refused == nil {
			_, refused = in.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	if p.src.err == io.EOF && refused == nil {
		_, _ = in.Write(p.sealed()) // if it does not get there, the output does not end in it
	}
}

// sealed is the seal as a gzip member: a header, one stored block, and the trailer.
func (p *filtered) sealed() []byte {
	b := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x10\x00\xef\xff")
	b = append(b, p.seal[:]...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(p.seal[:]))
	return binary.LittleEndian.AppendUint32(b, sealSize)
}

// Read is io.Reader's. It copies; WriteTo does not.
func (p *filtered) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	piece, err := p.next()
	n := copy(b, piece)
	p.at += n
	return n, err
}

func (p *filtered) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		piece, err := p.next()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(piece)
		p.at += n
		written += int64(n)
		if err == nil && n < len(piece) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// next gives output that was not handed on yet, or the error.
func (p *filtered) next() ([]byte, error) {
	for p.end-p.at <= sealSize {
		if p.err != nil {
			if p.at < p.end {
				break
			}
			return nil, p.err
		}
		p.end = copy(p.buf, p.buf[p.at:p.end])
		p.at = 0
		n, err := p.out.Read(p.buf[p.end:])
		p.end += n
		p.size += uint32(n)
		if err != nil {
			p.err = p.finish(err)
		}
	}
	if p.err != nil {
		return p.buf[p.at:p.end], nil
	}
	return p.buf[p.at : p.end-sealSize], nil
}

// finish waits for the program, whose output ended with err, and tells how it went: io.EOF if all
// is well. It takes the seal off.
func (p *filtered) finish(err error) error {
	waited := p.cmd.Wait()
	if waited != nil || err != io.EOF {
		p.stop(errStopped) // no more of the layer is wanted
	}
	<-p.fed
	sealed := bytes.HasSuffix(p.buf[p.at:p.end], p.seal[:])
	if sealed {
		p.end -= sealSize
	}
	var exit *exec.ExitError
	switch {
	case p.ctx.Err() != nil:
		return p.ctx.Err()
	case p.src.err != io.EOF && p.src.err != errStopped:
		return p.src.err
	case err != io.EOF:
		return fmt.Errorf("read from %s: %w", p.cmd.Path, err)
	case errors.As(waited, &exit) && exit.Exited():
		return fmt.Errorf("%s: %s: %w", p.cmd.Path, p.complaint.String(), errdefs.ErrDataLoss)
	case waited != nil:
		return fmt.Errorf("run %s: %w: %w", p.cmd.Path, waited, errdefs.ErrUnavailable)
	case sealed, p.tail.pads(p.size):
		return io.EOF
	}
	return fmt.Errorf("%s: bytes behind the last gzip member: %w", p.cmd.Path, errdefs.ErrDataLoss)
}

// errStopped is why a filter gets no more input when nobody wants its output.
var errStopped = errors.New("filter stopped")

// Close ends the program if it still runs.
func (p *filtered) Close() error {
	p.stop(errStopped)
	if p.err == nil {
		p.err = p.finish(os.ErrClosed)
		p.at, p.end = 0, 0
	}
	return p.out.Close()
}

// A tail is the end of a stream: 4 bytes up to the last that is not zero, and how many zeros follow.
type tail struct {
	last  [4]byte
	zeros int64
}

func (t *tail) add(p []byte) {
	trimmed := bytes.TrimRight(p, "\x00")
	behind := int64(len(p) - len(trimmed))
	if len(trimmed) == 0 {
		t.zeros += behind
		return
	}
	if len(trimmed) < len(t.last) { // and some of what came before
		zeros := make([]byte, min(t.zeros, int64(len(t.last))))
		trimmed = bytes.Join([][]byte{t.last[:], zeros, trimmed}, nil)
	}
	copy(t.last[:], trimmed[len(trimmed)-len(t.last):])
	t.zeros = behind
}

// pads tells whether the stream ends in the length of a member of size bytes and then in padding.
func (t *tail) pads(size uint32) bool {
	length := binary.LittleEndian.AppendUint32(nil, size)
	significant := bytes.TrimRight(length, "\x00")
	return t.zeros > int64(len(length)-len(significant)) && bytes.HasSuffix(t.last[:], significant)
}

// A complaint keeps the beginning of what a program says.
type complaint struct{ b []byte }

func (c *complaint) Write(p []byte) (int, error) {
	c.b = append(c.b, p[:min(len(p), maxComplaint-len(c.b))]...)
	return len(p), nil
}

func (c *complaint) String() string {
	return strings.ToValidUTF8(strings.TrimSpace(string(c.b)), "?")
}
