package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"mailnode/node/admin"
)

// Restart starts one node of the cluster in dir again and returns when it
// answers. A node that is running: an *admin.Error with ExitNothing.
func Restart(ctx context.Context, dir, name, executable string, out io.Writer) error {
	if dir == "" {
		return usage("--restart needs --dir, which the demo printed")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find folder of the demo: %w", err)
	}
	s, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return usage("--dir %q: no demo was started there", dir)
	}
	if err != nil {
		return err
	}
	n, err := s.named(name)
	if err != nil {
		return err
	}
	if alive(n.PID, n.config(dir)) {
		return &admin.Error{Text: fmt.Sprintf("%s is running (pid %d)", name, n.PID), Exit: admin.ExitNothing}
	}
	fmt.Fprintf(out, "starting %s\n", name)
	d := &demo{dir: dir, o: Options{Executable: executable}, out: out, own: make(map[string]*process), deaths: make(chan *process, 1)}
	if err := d.start(n); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return d.until(ctx, "node "+name+" answers", func() error {
		st, err := n.client().Status(ctx)
		if err == nil && st.State == "starting" {
			return fmt.Errorf("node %s is starting", name)
		}
		return err
	})
}
