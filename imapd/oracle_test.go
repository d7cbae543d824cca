package imapd

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/google/go-cmp/cmp"
)

func oracleOptions() *imapclient.Options {
	return &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}}
}

func oracleStartTLS(t testing.TB, addr string) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialStartTLS(addr, oracleOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func oracleTLS(t *testing.T, b *bench) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialTLS(b.tls, oracleOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Login("alice@example.test", "secret").Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOracle: an independent client understands what is served.
func TestOracle(t *testing.T) {
	b := newBench(t, nil)
	c := oracleTLS(t, b)
	text := crlf("From: =?utf-8?q?J=C3=BCrgen?= <j@example.test>\nTo: alice@example.test\nSubject: {quoted} \"x\"\nDate: Fri, 2 Jan 2026 10:00:00 +0000\n\nhello\n") + strings.Repeat("0123456789abcdef\r\n", 60_000)
	app := c.Append("INBOX", int64(len(text)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagFlagged, "custom"}, Time: fixedWall()})
	io.WriteString(app, text)
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	appended, err := app.Wait()
	if err != nil {
		t.Fatal(err)
	}
	sel, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		t.Fatal(err)
	}
	if sel.NumMessages != 1 || appended.UID != 1 || appended.UIDValidity != sel.UIDValidity || sel.UIDNext != 2 {
		t.Errorf("after APPEND: %+v, %+v", sel, appended)
	}
	whole := &imap.FetchItemBodySection{}
	ms, err := c.Fetch(imap.UIDSetNum(1), &imap.FetchOptions{Flags: true, Envelope: true, InternalDate: true, RFC822Size: true, UID: true,
		BodyStructure: &imap.FetchItemBodyStructure{Extended: true}, BodySection: []*imap.FetchItemBodySection{whole}}).Collect()
	if err != nil || len(ms) != 1 {
		t.Fatal(err, len(ms))
	}
	m := ms[0]
	if string(m.FindBodySection(whole)) != text || m.RFC822Size != int64(len(text)) || !m.InternalDate.Equal(fixedWall()) {
		t.Errorf("the message came back changed: %d bytes, size %d, %v", len(m.FindBodySection(whole)), m.RFC822Size, m.InternalDate)
	}
	if m.Envelope.Subject != `{quoted} "x"` || m.Envelope.From[0].Name != "Jürgen" || m.BodyStructure.MediaType() != "text/plain" {
		t.Errorf("envelope %+v, structure %+v", m.Envelope, m.BodyStructure)
	}
	if diff := cmp.Diff([]imap.Flag{`\Flagged`, `\Seen`, "custom"}, m.Flags); diff != "" {
		t.Error(diff)
	}
	oracleChanges(t, c)
	if err := c.Logout().Wait(); err != nil {
		t.Error(err)
	}
}

func oracleChanges(t *testing.T, c *imapclient.Client) {
	t.Helper()
	copied, err := c.Copy(imap.UIDSetNum(1), "Archive").Wait()
	if err != nil || copied.SourceUIDs.String() != "1" || copied.DestUIDs.String() != "1" {
		t.Fatalf("copy: %+v, %v", copied, err)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Flag: []imap.Flag{"custom"}, Not: []imap.SearchCriteria{{Body: []string{"absent"}}},
		Or: [][2]imap.SearchCriteria{{{Text: []string{"jürgen"}}, {Larger: 1 << 40}}}, Since: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
		&imap.SearchOptions{ReturnAll: true, ReturnCount: true}).Wait()
	if err != nil || found.Count != 1 || fmt.Sprint(found.AllUIDs()) != "[1]" {
		t.Errorf("search: %+v, %v", found, err)
	}
	moved, err := c.Move(imap.UIDSetNum(1), "Entwürfe & Co").Wait()
	if err == nil {
		t.Errorf("move to nowhere: %+v", moved)
	}
	if err := c.Create("Entwürfe & Co", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Move(imap.UIDSetNum(1), "Entwürfe & Co").Wait(); err != nil {
		t.Error(err)
	}
	status, err := c.Status("Entwürfe & Co", &imap.StatusOptions{NumMessages: true, NumUnseen: true, Size: true}).Wait()
	if err != nil || *status.NumMessages != 1 || *status.NumUnseen != 0 || *status.Size < 1000 {
		t.Errorf("status: %+v, %v", status, err)
	}
	names := []string{}
	list, err := c.List("", "*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}, ReturnSpecialUse: true}).Collect()
	for _, l := range list {
		names = append(names, fmt.Sprint(l.Mailbox, " ", *l.Status.NumMessages))
	}
	want := []string{"Archive 1", "Drafts 0", "Entwürfe & Co 1", "INBOX 0", "Junk 0", "Sent 0", "Trash 0"}
	if diff := cmp.Diff(want, names); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if ns, err := c.Namespace().Wait(); err != nil || len(ns.Personal) != 1 {
		t.Errorf("namespace: %+v, %v", ns, err)
	}
}

// TestMbsync runs a real client in both directions.
func TestMbsync(t *testing.T) {
	bin, err := exec.LookPath("mbsync")
	if err != nil {
		t.Skip("SKIPPED: mbsync is not installed (apt-get install isync); no real client was tried")
	}
	b := newBench(t, nil)
	b.deliverMany("alice", 20)
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(b.plain)
	conf := fmt.Sprintf(`IMAPStore far
Host %s
Port %s
User alice@example.test
Pass secret
SSLType None
AuthMechs LOGIN

MaildirStore near
Path %s/
Inbox %s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
`, host, port, dir, dir)
	file := filepath.Join(dir, "mbsyncrc")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, bin, "-c", file, "-a").CombinedOutput(); err != nil {
			t.Fatalf("mbsync: %v\n%s", err, out)
		}
	}
	run()
	got, err := filepath.Glob(dir + "/INBOX/*/*")
	if err != nil || len(got) != 20 {
		t.Fatalf("mbsync fetched %d messages, %v", len(got), err)
	}
	// Upwards: a new message, a new folder, and one that is deleted here.
	if err := os.WriteFile(dir+"/INBOX/new/1.2.3", []byte("Subject: up\n\nfrom here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(got[0]); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"cur", "new", "tmp"} {
		os.MkdirAll(dir+"/Work/"+sub, 0o700)
	}
	run()
	run()
	c := b.login("alice")
	if found := c.ok("a SELECT INBOX"); !strings.Contains(strings.Join(found, "\n"), "* 20 EXISTS") {
		t.Errorf("after 20 - 1 + 1 messages: %q", found)
	}
	if found := c.ok("b SEARCH SUBJECT up"); found[0] != "* SEARCH 20" {
		t.Errorf("the message from below: %q", found)
	}
}
