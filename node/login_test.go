package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailnode/node/admin"
	"mailnode/node/peer"
	"mailnode/storage"
)

// imapLine is a client that speaks IMAP by hand.
type imapLine struct {
	conn net.Conn
	r    *bufio.Reader
}

// imapFrom connects to a node's IMAP port from a loopback address, each of which is
// another client, and reads the greeting.
func imapFrom(from, to string) (*imapLine, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp", to)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &imapLine{conn, bufio.NewReader(conn)}
	if line, err := c.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "* OK") {
		conn.Close()
		return nil, fmt.Errorf("greeting %q: %w", line, errors.Join(err, errNoGreeting))
	}
	return c, nil
}

var errNoGreeting = errors.New("no greeting")

// ask sends a command with the tag a, and returns its tagged response without the tag.
func (c *imapLine) ask(command string) (string, error) {
	if _, err := io.WriteString(c.conn, "a "+command+"\r\n"); err != nil {
		return "", err
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return line, err
		}
		if answer, ok := strings.CutPrefix(line, "a "); ok {
			return strings.TrimSpace(answer), nil
		}
	}
}

// tried is one login, on a connection of its own.
func tried(t *testing.T, r *running, user, password string) string {
	t.Helper()
	c, err := imapFrom("127.0.0.1", r.cfg.IMAP.Plain)
	if err != nil {
		return err.Error()
	}
	defer c.conn.Close()
	answer, err := c.ask(fmt.Sprintf("LOGIN %s {%d+}\r\n%s", user, len(password), password))
	if err != nil {
		return err.Error()
	}
	return answer
}

// userOf makes a user whose slot a node is master of.
func (s *site) userOf(ctx context.Context, r *running, name string) string {
	s.t.Helper()
	st := s.status(ctx, r)
	for i := 0; ; i++ {
		u := fmt.Sprintf("%s%d@example.test", name, i)
		if st.Slots[addr(s.t, u).Home(len(st.Slots))].Master != r.cfg.Node.Name {
			continue
		}
		if _, err := s.nodes[0].admin.AddUser(ctx, admin.AddUser{Address: addr(s.t, u), Password: "pw"}); err != nil {
			s.t.Fatal(err)
		}
		return u
	}
}

// A refused login costs its master one hash and nothing else, whether there is such
// a user or not, whether he is disabled, however long the password is and at
// whichever node it is tried; and the node at which it is tried needs no connection
// to pass a client on.
func TestRefusedLoginsTakeTheSameWork(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, 1, 4)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	master, front := s.nodes[0], s.nodes[1]
	ann, ben := s.userOf(ctx, master, "ann"), s.userOf(ctx, master, "ben")
	if err := master.admin.SetDisabled(ctx, admin.SetDisabled{Address: addr(t, ben), Disabled: true}); err != nil {
		t.Fatal(err)
	}
	nobody := ""
	for i := 0; nobody == ""; i++ {
		if u := fmt.Sprintf("nobody%d@example.test", i); addr(t, u).Home(4) == addr(t, ann).Home(4) {
			nobody = u
		}
	}
	master.node.port.Listener(peer.ProtoClient).Close()
	passwords := []string{"x", "p\xe4ss", strings.Repeat("x", storage.MaxPasswordBytes)}
	for _, user := range []string{ann, ben, nobody} {
		before, _ := master.node.passwords.Load()
		var trying sync.WaitGroup // a refusal is answered after 2 s
		var tries atomic.Uint64
		for _, r := range []*running{master, front} {
			for _, password := range passwords {
				trying.Go(func() {
					got, want := "", "NO [AUTHENTICATIONFAILED]"
					for ctx.Err() == nil && (got == "" || strings.HasPrefix(got, "NO [UNAVAILABLE]")) { // in an election nobody is refused for good
						tries.Add(1)
						got = tried(t, r, user, password)
					}
					if !strings.HasPrefix(got, want) {
						t.Errorf("%s with %.5q at %s: %s, want %s", user, password, r.name, got, want)
					}
				})
			}
		}
		trying.Wait()
		if after, _ := master.node.passwords.Load(); after-before != tries.Load() {
			t.Errorf("%s: %d hashes, want %d", user, after-before, tries.Load())
		}
	}
	if hashes, _ := front.node.passwords.Load(); hashes != 0 {
		t.Errorf("the front node computed %d hashes", hashes)
	}
	if got := tried(t, front, ann, "pw"); !strings.HasPrefix(got, "NO [UNAVAILABLE]") {
		t.Errorf("who may come in was not passed on: %s", got)
	}
	if got := tried(t, master, ann, "pw"); !strings.HasPrefix(got, "OK") {
		t.Errorf("at the master: %s", got)
	}
}

// A closed account, and one with a new password, has no session left at any node
// within 2 s, and its old password is worth nothing anywhere.
func TestSessionsEndAtEveryNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, 1, 4)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	bob := s.userOf(ctx, s.nodes[1], "bob")
	for name, tt := range map[string]struct {
		end      func(user string) error
		bye, now string
	}{
		"passwd": {func(user string) error {
			return s.nodes[2].admin.SetPassword(ctx, admin.SetPassword{Address: addr(t, user), Password: "new"})
		}, "* BYE [EXPIRED]", "NO [AUTHENTICATIONFAILED]"},
		"disable": {func(user string) error {
			return s.nodes[2].admin.SetDisabled(ctx, admin.SetDisabled{Address: addr(t, user), Disabled: true})
		}, "* BYE [CONTACTADMIN]", "NO [AUTHENTICATIONFAILED]"},
		"delete": {func(user string) error {
			return s.nodes[2].admin.DeleteUser(ctx, admin.NamedUser{Address: addr(t, user)})
		}, "* BYE [CONTACTADMIN]", "NO [AUTHENTICATIONFAILED]"},
	} {
		user := s.userOf(ctx, s.nodes[1], name)
		var sessions, others []*imapLine
		for _, r := range s.nodes {
			for _, last := range []string{"NOOP", "SELECT INBOX", "IDLE"} {
				sessions = append(sessions, s.opened(r, user, last))
			}
			others = append(others, s.opened(r, bob, "SELECT INBOX"))
		}
		if err := tt.end(user); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(2 * time.Second)
		var reading sync.WaitGroup
		for i, c := range sessions {
			reading.Go(func() {
				c.conn.SetDeadline(deadline)
				if rest, err := io.ReadAll(c.r); err != nil || !strings.HasPrefix(string(rest), tt.bye) {
					t.Errorf("user %s: session %d ended with %q, %v, want %s", name, i, rest, err, tt.bye)
				}
			})
		}
		reading.Wait()
		for i, r := range s.nodes {
			if got, err := others[i].ask("NOOP"); !strings.HasPrefix(got, "OK") {
				t.Errorf("user %s: another's session at %s: %q, %v", name, r.name, got, err)
			}
			if got := tried(t, r, user, "pw"); !strings.HasPrefix(got, tt.now) {
				t.Errorf("user %s: the old password at %s: %s", name, r.name, got)
			}
		}
	}
}

// opened is a session of a user whose last command is given.
func (s *site) opened(r *running, user, last string) *imapLine {
	s.t.Helper()
	c, err := imapFrom("127.0.0.1", r.cfg.IMAP.Plain)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.conn.Close() })
	commands := []string{"LOGIN " + user + " pw", "SELECT INBOX", last}
	if last == "NOOP" {
		commands = commands[:1]
	}
	for _, command := range commands {
		if command == "IDLE" {
			io.WriteString(c.conn, "i IDLE\r\n")
			if line, err := c.r.ReadString('\n'); !strings.HasPrefix(line, "+") {
				s.t.Fatalf("IDLE: %q, %v", line, err)
			}
			continue
		}
		if got, err := c.ask(command); !strings.HasPrefix(got, "OK") {
			s.t.Fatalf("%s at %s: %q, %v", command, r.name, got, err)
		}
	}
	return c
}
