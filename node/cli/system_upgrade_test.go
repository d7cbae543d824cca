package cli_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
)

func skipUnlessLong(t *testing.T) {
	t.Helper()
	if os.Getenv("MAILNODE_LONG") == "" {
		t.Skip("SKIPPED: MAILNODE_LONG is not set; run `make long`")
	}
}

// previous builds the release before this one: of the commit that MAILNODE_PREVIOUS
// names, else of the one before the last. It returns which commit that is.
func previous(t *testing.T) (bin, commit string) {
	t.Helper()
	root := filepath.Join("..", "..")
	rev := cmp.Or(os.Getenv("MAILNODE_PREVIOUS"), "HEAD~1")
	out, err := exec.Command("git", "-C", root, "rev-parse", "--verify", rev+"^{commit}").CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED: no git history here: git rev-parse %s: %v: %s", rev, err, out)
	}
	commit = strings.TrimSpace(string(out))
	dir := t.TempDir()
	archive := exec.Command("git", "-C", root, "archive", commit)
	unpack := exec.Command("tar", "-x", "-C", dir)
	var files, said bytes.Buffer
	archive.Stdout, archive.Stderr = &files, &said
	unpack.Stdin, unpack.Stderr = &files, &said
	if err := errors.Join(archive.Run(), unpack.Run()); err != nil {
		t.Fatalf("unpack %s: %v: %s", commit, err, &said)
	}
	return buildIn(t, dir), commit
}

// upgrade is a rolling upgrade, with what its clients have lived through.
type upgrade struct {
	*system
	old, new string
	mu       sync.Mutex
	failed   []string       // deliveries
	ended    map[string]int // sessions of a client that ended in this step
	worst    int            // sessions of one client that ended in one step
	total    int
}

// TestLongRollingUpgrade replaces the binary of three nodes, one after another, by the
// recipe: masters off, stop, start, catch up, masters home; then back to the old one,
// since the feature level was not raised. Deliveries go on, as from an MTA that knows
// two next hops, and IMAP clients stay logged in (laws 1, 2, 4).
func TestLongRollingUpgrade(t *testing.T) {
	skipUnlessLong(t)
	old, commit := previous(t)
	u := &upgrade{system: startSystemOf(t, old, shortDir(t), "--users", "6", "--slots", "6"), old: old, new: buildIn(t, "."), ended: map[string]int{}}
	t.Logf("from %s", commit)
	u.allProtected(u.node("n1"))
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i, user := range u.demo().Users {
		clients.Go(func() { u.send(ctx, i, user) })
		clients.Go(func() { u.stayLoggedIn(ctx, i, user) })
	}
	for _, bin := range []string{u.new, u.old} {
		for _, name := range []string{"n1", "n2", "n3"} {
			u.replace(name, bin)
		}
	}
	stop()
	clients.Wait()
	for _, n := range u.demo().Nodes {
		u.verify(n)
	}
	if len(u.failed) > 0 {
		t.Errorf("%d of %d deliveries failed: %q", len(u.failed), u.next, u.failed[:min(5, len(u.failed))])
	}
	if u.worst > 1 {
		t.Errorf("%d sessions of one client ended in one step", u.worst)
	}
	if len(u.acked) < 500 {
		t.Errorf("%d deliveries: this proves nothing", len(u.acked))
	}
	t.Logf("%d deliveries, %d sessions ended", len(u.acked), u.total)
}

// replace upgrades one node, or takes it back.
func (u *upgrade) replace(name, bin string) {
	u.t.Helper()
	other := u.node("n1")
	if name == "n1" {
		other = u.node("n2")
	}
	u.step(other, "fo", "-a", name, "--yes")
	n := u.node(name)
	if err := syscall.Kill(n.PID, syscall.SIGTERM); err != nil {
		u.t.Fatal(err)
	}
	u.within(30*time.Second, name+" has stopped", func() bool { code, _ := u.cli(n, "status"); return code != 0 && syscall.Kill(n.PID, 0) != nil })
	u.endStep()
	u.bin = bin
	u.restart(name)
	u.allProtected(other)
	u.caughtUp(other, name)
	u.step(other, "fo", "-m", name, "--yes")
	u.allProtected(other)
}

// caughtUp waits until a node that was started has opened its copies, and they are good.
func (u *upgrade) caughtUp(at demoNode, name string) {
	u.t.Helper()
	u.within(45*time.Second, "the copies of "+name+" have caught up", func() bool {
		code, out := u.cli(at, "status", "--json")
		var st struct {
			Slots []struct {
				Copies []struct {
					Node   string
					Viable bool
					LagS   *float64 `json:"lag_s"`
				}
			}
		}
		if err := json.Unmarshal([]byte(out), &st); code != 0 || err != nil {
			return false
		}
		for _, sl := range st.Slots {
			for _, c := range sl.Copies {
				if c.Node == name && (!c.Viable || c.LagS == nil || *c.LagS > 1) {
					return false
				}
			}
		}
		return true
	})
}

// step types a command, again when an election came in between, and counts the sessions
// that it ended.
func (u *upgrade) step(at demoNode, args ...string) {
	u.t.Helper()
	u.within(time.Minute, fmt.Sprint(args), func() bool {
		code, out := u.cli(at, args...)
		if code != 0 && code != 3 { // 3: an earlier one did it all
			u.t.Logf("%v at %s: exit %d: %s", args, at.Name, code, out)
		}
		return code == 0 || code == 3
	})
	u.endStep()
}

func (u *upgrade) endStep() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for user, n := range u.ended {
		u.worst, u.total = max(u.worst, n), u.total+n
		delete(u.ended, user)
	}
}

// send delivers to a user, at the next node where one takes no connection or says that
// it stops.
func (u *upgrade) send(ctx context.Context, at int, user string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		nodes := u.demo().Nodes
		var err error
		for i := range nodes {
			err = u.deliver(nodes[(at+i)%len(nodes)], user)
			if err == nil || !refused(err) && !strings.Contains(err.Error(), ": 421 ") {
				break
			}
		}
		if err != nil {
			u.mu.Lock()
			u.failed = append(u.failed, err.Error())
			u.mu.Unlock()
		}
		<-tick.C
	}
}

// refused reports whether no connection was made.
func refused(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}

// stayLoggedIn keeps a session, and begins another at the next node when one ends.
func (u *upgrade) stayLoggedIn(ctx context.Context, at int, user string) {
	for ; ctx.Err() == nil; at++ {
		nodes := u.demo().Nodes
		err := u.session(ctx, nodes[at%len(nodes)], user)
		if err == nil || refused(err) {
			continue
		}
		u.mu.Lock()
		u.ended[user]++
		u.mu.Unlock()
	}
}

// session asks for news until it is ended; nil is that ctx has ended.
func (u *upgrade) session(ctx context.Context, at demoNode, user string) error {
	c, err := imapclient.DialTLS(at.IMAPS, &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Login(user, "pw").Wait(); err != nil {
		return fmt.Errorf("log in at %s: %w", at.Name, err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := c.Noop().Wait(); err != nil {
			return err
		}
		<-tick.C
	}
	return nil
}
