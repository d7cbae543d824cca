package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"mailnode/storage/slot"
)

const (
	// hookWithin is how long a command may take; then its whole process group is killed.
	hookWithin = 30 * time.Second
	// hookLast is what it is left when the node stops. The node waits for all that it
	// does by itself a little longer (settleWithin).
	hookLast = 2 * time.Second
	// hookPipes is how long the output of a killed command is waited for: a child that
	// made itself a group of its own may hold it open.
	hookPipes      = 200 * time.Millisecond
	hookOutputMax  = 4096 // bytes of its output that are logged
	hookPathPreset = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// hookCommand is one call of the command of [hooks].
type hookCommand struct {
	text   string // for /bin/sh -c
	node   slot.NodeName
	socket string
	input  []byte
	within time.Duration
}

// runHook runs a command as this process's user in an environment of its own: nothing
// of the service manager's goes into it. It returns the beginning of what the command
// has written. The end of ctx leaves it hookLast.
func runHook(ctx context.Context, c hookCommand) (output string, err error) {
	if ctx.Err() != nil {
		c.within = min(c.within, hookLast)
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.within)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		last := time.AfterFunc(hookLast, cancel)
		context.AfterFunc(own, func() { last.Stop() })
	})
	defer stop()
	out := &beginning{max: hookOutputMax}
	cmd := exec.CommandContext(own, "/bin/sh", "-c", c.text)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", bytes.NewReader(c.input), out, out
	cmd.Env = []string{"PATH=" + hookPathPreset, "LANG=C.UTF-8", "MAILNODE_NODE=" + string(c.node), "MAILNODE_SOCKET=" + c.socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = hookPipes
	err = cmd.Run()
	switch {
	case own.Err() != nil:
		err = fmt.Errorf("run hook: killed after %s", c.within)
		if ctx.Err() != nil {
			err = errors.New("run hook: killed, the node stops")
		}
	case errors.Is(err, exec.ErrWaitDelay): // it has ended well; a child of it runs on
		err = nil
	case err != nil:
		err = fmt.Errorf("run hook: %w%s", err, out.tail())
	}
	return out.String(), err
}

// beginning keeps the first bytes that are written. A command is not ended because
// it writes more.
type beginning struct {
	max int

	mu  sync.Mutex // guards got
	got []byte
}

// Write implements io.Writer.
func (b *beginning) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, p[:min(len(p), b.max-len(b.got))]...)
	return len(p), nil
}

// String returns what was kept, as text.
func (b *beginning) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(b.got)), "?")
}

// hookLineMax bounds the line of a condition, in bytes.
const hookLineMax = 120

// tail is the last line, for a condition.
func (b *beginning) tail() string {
	text := b.String()
	line := text[strings.LastIndexByte(text, '\n')+1:]
	if line == "" {
		return ""
	}
	return ": " + strings.ToValidUTF8(line[:min(len(line), hookLineMax)], "")
}
