package cli_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// tap passes connections on to a server, and keeps what that has said.
type tap struct {
	ln net.Listener

	mu   sync.Mutex
	said bytes.Buffer
}

func newTap(t *testing.T, server string) *tap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{ln: ln}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server)
			if err != nil {
				c.Close()
				continue
			}
			wg.Go(func() { defer s.Close(); io.Copy(s, c) })
			wg.Go(func() { defer c.Close(); io.Copy(io.MultiWriter(c, p), s) })
		}
	})
	return p
}

// Write implements io.Writer.
func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

// taken returns what was said since the last call.
func (p *tap) taken() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.said.Reset()
	return p.said.String()
}

// mbsync is a caching client: a Maildir that is brought up to date with an INBOX.
type mbsync struct {
	s        *system
	tap      *tap
	dir      string
	validity string
}

func (s *system) newMbsync(through demoNode, user string) *mbsync {
	s.t.Helper()
	m := &mbsync{s: s, tap: newTap(s.t, through.IMAP), dir: s.t.TempDir()}
	host, port, _ := net.SplitHostPort(m.tap.ln.Addr().String())
	rc := fmt.Sprintf("IMAPStore far\nHost %s\nPort %s\nUser %s\nPass pw\nSSLType None\n\nMaildirStore near\nPath %s/\nInbox %s/INBOX\n\n"+
		"Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Near\nExpunge Near\nSync Pull\nSyncState *\n", host, port, user, m.dir, m.dir)
	if err := os.WriteFile(filepath.Join(m.dir, "rc"), []byte(rc), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return m
}

var (
	bodySent     = regexp.MustCompile(`BODY\[\] \{(\d+)\}`)
	validitySaid = regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`)
)

// sync runs mbsync, and returns how many bodies it has fetched, and all bytes that the
// server has sent it.
func (m *mbsync) sync() (bodies, sent int) {
	t := m.s.t
	t.Helper()
	c := exec.Command("mbsync", "-c", filepath.Join(m.dir, "rc"), "all")
	c.Env = append(os.Environ(), "HOME="+m.dir)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("mbsync: %v\n%s", err, out)
	}
	said := m.tap.taken()
	v := validitySaid.FindStringSubmatch(said)
	if v == nil {
		t.Fatalf("no UIDVALIDITY was said: %.2000s", said)
	}
	if m.validity != "" && v[1] != m.validity {
		t.Errorf("UIDVALIDITY %s, it was %s (law 2)", v[1], m.validity)
	}
	m.validity = v[1]
	return len(bodySent.FindAllString(said, -1)), len(said)
}

// near returns the messages of the Maildir: what they are, and their flags.
func (m *mbsync) near() (messages map[string][32]byte, flags map[string]string) {
	m.s.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.dir, "INBOX", "[cn]*", "*"))
	if err != nil {
		m.s.t.Fatal(err)
	}
	messages, flags = map[string][32]byte{}, map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			m.s.t.Fatal(err)
		}
		name, flag, _ := strings.Cut(filepath.Base(f), ":2,")
		messages[name], flags[name] = sha256.Sum256(b), flag
	}
	return messages, flags
}

// change flags the first messages of an INBOX and removes the last of them, which is no
// longer looked for.
func (s *system) change(at demoNode, user string, flagged uint32) {
	s.t.Helper()
	c, err := imapclient.DialTLS(at.IMAPS, &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(user, "pw").Wait(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		s.t.Fatal(err)
	}
	store := func(set imap.SeqSet, f imap.Flag) {
		s.t.Helper()
		if err := c.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{f}}, nil).Close(); err != nil {
			s.t.Fatal(err)
		}
	}
	store(imap.SeqSet{imap.SeqRange{Start: 1, Stop: flagged}}, imap.FlagFlagged)
	last := imap.SeqSet{imap.SeqRange{Start: flagged, Stop: flagged}}
	got, err := c.Fetch(last, &imap.FetchOptions{Envelope: true}).Collect()
	if err != nil || len(got) != 1 {
		s.t.Fatalf("fetch: %v, %v", got, err)
	}
	delete(s.acked, "<"+got[0].Envelope.MessageID+">")
	store(last, imap.FlagDeleted)
	if err := c.Expunge().Close(); err != nil {
		s.t.Fatal(err)
	}
}

// userOn returns a user whose slot has its master on a node.
func (s *system) userOn(master string) (user, slot string) {
	s.t.Helper()
	at := s.node(master)
	for _, u := range s.demo().Users {
		code, out := s.cli(at, "user", "show", "--json", u)
		var shown struct{ Slot string }
		if err := json.Unmarshal([]byte(out), &shown); code != 0 || err != nil {
			s.t.Fatalf("user show: exit %d, %v: %s", code, err, out)
		}
		for _, sl := range s.status(at).Slots {
			if sl.Slot == shown.Slot && sl.Master == master {
				return u, sl.Slot
			}
		}
	}
	s.t.Fatalf("no user's slot has its master on %s", master)
	return "", ""
}

// A slot is handed over and comes home again. To a caching client nothing has happened: it
// fetches what is new, each once, and what it has stays as it is (laws 1, 2, 3).
func (s *system) handOverFetchesNothingAgain(t *testing.T) {
	s.t = t
	if _, err := exec.LookPath("mbsync"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("mbsync is missing (Debian package isync)")
		}
		t.Skip("SKIPPED: mbsync is missing (Debian package isync)")
	}
	n1 := s.node("n1")
	user, slot := s.userOn("n1")
	deliver := func(n int) {
		t.Helper()
		for range n {
			if err := s.deliver(s.node("n2"), user); err != nil {
				t.Fatal(err)
			}
		}
	}
	fo := func(args ...string) {
		t.Helper()
		if code, out := s.cli(s.node("n3"), append([]string{"fo", "--yes"}, args...)...); code != 0 {
			t.Fatalf("fo %v: exit %d: %s", args, code, out)
		}
	}
	const first, away, home = 40, 5, 3
	m := s.newMbsync(n1, user)
	before := time.Now()
	deliver(first)
	welcome, _ := m.sync()
	all, _ := m.near()
	if welcome < first || len(all) != welcome {
		t.Fatalf("%d messages after %d bodies, %d were delivered", len(all), welcome, first)
	}
	_, idle := m.sync() // what a look at it costs
	fo("-a", "n1")
	if n, sent := m.sync(); n != 0 || sent > idle+idle/10 {
		t.Errorf("after the hand-over %d bodies and %d bytes were fetched, a look costs %d", n, sent, idle)
	}
	deliver(away)
	s.change(n1, user, 4)
	fo("-m", "n1")
	deliver(home)
	n, sent := m.sync()
	if n != away+home {
		t.Errorf("%d bodies were fetched, %d are new", n, away+home)
	}
	now, flags := m.near()
	if want := len(all) - 1 + away + home; len(now) != want {
		t.Errorf("%d messages, want %d", len(now), want)
	}
	kept, flagged := 0, 0
	for name, sum := range all {
		if got, there := now[name]; there && got == sum {
			kept++
		}
	}
	for _, f := range slices.Collect(maps.Values(flags)) {
		if strings.Contains(f, "F") {
			flagged++
		}
	}
	if kept != len(all)-1 || flagged != 3 {
		t.Errorf("of %d messages %d are as they were, %d are flagged", len(all), kept, flagged)
	}
	if n, _ := m.sync(); n != 0 {
		t.Errorf("%d bodies were fetched when nothing was new", n)
	}
	t.Logf("%s of %s: %d bodies at first, then %d in %d bytes; a look costs %d bytes; in all %s", slot, user, welcome, n, sent, idle, time.Since(before).Round(time.Millisecond))
}
