package cli_test

import (
	"crypto/tls"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
)

// recipe returns the lines of the README on the maintenance of a node, without
// comments.
func recipe(t *testing.T, file string) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "# Maintenance of a node\n\n```\n")
	block, _, _ := strings.Cut(rest, "```")
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// The recipe is the same where an operator looks first and where he looks next.
func TestRecipeIsTheSame(t *testing.T) {
	readme, page := recipe(t, "../../README.md"), recipe(t, "../../docs/OPERATING.md")
	if len(readme) != 5 || strings.Join(readme, "\n") != strings.Join(page, "\n") {
		t.Errorf("README: %q, OPERATING: %q", readme, page)
	}
}

// What the README says of maintenance is typed, line by line, while mail comes in by
// two next hops and users are logged in: no delivery fails, no mail is lost, and no
// session is closed more often than masters move.
func TestLongMaintenance(t *testing.T) {
	if os.Getenv("MAILNODE_LONG") == "" {
		t.Skip("set MAILNODE_LONG to run it")
	}
	s := startSystem(t, shortDir(t), "--users", "6", "--slots", "6")
	n1, n2 := s.node("n1"), s.node("n2")
	s.allProtected(n2)
	stop := make(chan struct{})
	var load sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer end()
	var failed, byDetour atomic.Int64
	for w := range 4 { // an MTA: n1 first, else n2
		load.Go(func() {
			for i := w; !closed(stop); i++ {
				user := s.demo().Users[i%6]
				if err := s.deliver(n1, user); err == nil {
					continue
				}
				byDetour.Add(1)
				if err := s.deliver(n2, user); err != nil {
					failed.Add(1)
					t.Errorf("a delivery failed at both next hops: %v", err)
				}
			}
		})
	}
	ends := make([]atomic.Int64, 6)
	for i, user := range s.demo().Users {
		load.Go(func() { s.stayLoggedIn(n2, user, stop, &ends[i]) })
	}
	for _, line := range recipe(t, "../../README.md") {
		t.Logf("%s", line)
		switch line {
		case "systemctl stop mailnode":
			syscall.Kill(n1.PID, syscall.SIGTERM)
			s.within(40*time.Second, "n1 has stopped", func() bool { return syscall.Kill(n1.PID, 0) != nil })
		case "systemctl start mailnode":
			if out, err := exec.Command(s.bin, "demo", "--dir", s.dir, "--restart", "n1").CombinedOutput(); err != nil {
				t.Fatalf("restart n1: %v: %s", err, out)
			}
		case "mailnode status":
			s.allProtected(n2)
		default:
			if code, out := s.cli(n2, strings.Fields(line)[1:]...); code != 0 {
				t.Fatalf("%s: exit %d: %s", line, code, out)
			}
		}
	}
	if code, out := s.cli(n2, "fo", "-m", "n1", "--yes"); code != 3 {
		t.Errorf("typed again: exit %d: %s", code, out)
	}
	end()
	t.Logf("%d messages, %d of them by the second next hop", len(s.acked), byDetour.Load())
	if failed.Load() > 0 || len(s.acked) < 200 || byDetour.Load() == 0 {
		t.Errorf("%d deliveries failed of %d, %d took the second next hop: at least 200, and one", failed.Load(), len(s.acked), byDetour.Load())
	}
	for i := range ends {
		if n := ends[i].Load(); n > 2 {
			t.Errorf("a session of %s was closed %d times", s.demo().Users[i], n)
		}
	}
	s.verify(n2)
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stayLoggedIn keeps a session with commands going, connects again when it is closed,
// and counts how often that was. Until it is let in it tries again, as clients do.
func (s *system) stayLoggedIn(at demoNode, user string, stop chan struct{}, ends *atomic.Int64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ; !closed(stop); <-tick.C {
		c, err := imapclient.DialTLS(at.IMAPS, &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
		if err != nil {
			continue
		}
		if err := c.Login(user, "pw").Wait(); err == nil {
			_, err = c.Select("INBOX", nil).Wait()
			for err == nil && !closed(stop) {
				<-tick.C
				err = c.Noop().Wait()
			}
			if err != nil {
				ends.Add(1)
				s.t.Logf("the session of %s ended: %v", user, err)
			}
		}
		c.Close()
	}
}
