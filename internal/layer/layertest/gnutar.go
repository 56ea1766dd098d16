package layertest

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// installTar copies GNU tar and the libraries that it is linked with into the root. With the tree
// as its root, absolute links lead where they are to lead, and nothing outside can be reached.
func (r *reference) installTar() {
	r.t.Helper()
	program, err := exec.LookPath("tar")
	r.must(err)
	list, err := exec.Command("ldd", program).Output()
	r.must(err)
	tools := filepath.Join(r.root, toolbox)
	r.must(os.Mkdir(tools, 0o700))
	loader := ""
	files := []string{program}
	for _, field := range strings.Fields(string(list)) {
		if !path.IsAbs(field) {
			continue
		}
		files = append(files, field)
		if strings.HasPrefix(path.Base(field), "ld-") {
			loader = path.Base(field)
		}
	}
	// By a program of its own: files that this one wrote cannot be run while another goroutine
	// starts a program, which has them open for a moment.
	r.must(exec.Command("cp", append(files, tools)...).Run())
	within := "/" + toolbox + "/"
	r.tar = []string{within + loader, "--library-path", within, within + path.Base(program)}
}

// extract has GNU tar extract some entries of a layer that follow each other.
func (r *reference) extract(layer []byte, parts []part) {
	r.t.Helper()
	if len(parts) == 0 {
		return
	}
	args := append(r.tar[1:], "--extract", "--file=-", "--absolute-names", "--xattrs", "--xattrs-include=*",
		"--preserve-permissions", "--same-owner", "--numeric-owner", "--exclude=.wh.*", "--warning=no-timestamp")
	cmd := exec.Command(r.tar[0], args...)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.root}
	cmd.Stdin = bytes.NewReader(append(layer[parts[0].begin:parts[len(parts)-1].end:parts[len(parts)-1].end], make([]byte, 2*blockSize)...))
	if output, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("reference: tar: %v: %s", err, output)
	}
}
