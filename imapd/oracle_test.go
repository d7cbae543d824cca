package imapd

import (
	"crypto/tls"
	"fmt"
	"io"
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
