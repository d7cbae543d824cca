package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/mime"
	"mailnode/storage/slot"
)

// hostileBodies are messages that a sender may really make.
func hostileBodies() map[string]string {
	var every strings.Builder
	for i := range 256 {
		every.WriteByte(byte(i))
	}
	var deep strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	return map[string]string{
		"0 bytes":         "",
		"1 byte":          "x",
		"NULs":            strings.Repeat("\x00", 100_000),
		"8-bit header":    "Subject: \xff\xfe\xe4\r\nFrom: \xe4 <\xf6@\xfc>\r\n\r\n\xff",
		"every byte":      every.String() + "\r\n\r\n" + every.String(),
		"bare CR and LF":  "Subject: a\rb\nTo: c\n\n.\r\n\r\r\n\n",
		"deep multiparts": deep.String(),
		"deep messages":   strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 10_000),
		"header of 10 MB": "Subject: s\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("f", 88)+"\r\n", 100_000) + "\r\nbody",
		"field of 10 MB":  "Subject: " + strings.Repeat("s", 10_000_000) + "\r\n\r\nbody",
		"folds of 10 MB":  "To: a@b" + strings.Repeat(",\r\n a@b", 1_250_000) + "\r\n\r\nbody",
	}
}

// A message of any bytes is stored byte for byte, delivered or appended, and its summary
// describes as many bytes.
func TestHostileBodiesAreStored(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := refOf(t, m, a, "INBOX")
	for name, text := range hostileBodies() {
		deliver(t, m, text, a)
		got, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "inbox", Body: spooled(text)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, uid := range []storage.UID{got.UID - 1, got.UID} {
			b, err := m.OpenBody(ctx, ref, uid)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			have := make([]byte, b.Size())
			if _, err := b.ReadAt(have, 0); err != nil && err != io.EOF {
				t.Fatalf("%s: %v", name, err)
			}
			b.Close()
			if !bytes.Equal(have, []byte(text)) {
				t.Fatalf("%s: %d bytes came back, not the %d that were stored", name, len(have), len(text))
			}
			raw, err := m.Summary(ctx, ref, uid)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			sum, err := mime.ParseSummary(raw)
			if err != nil || sum.Size() != int64(len(text)) || len(raw) > 2<<20 {
				t.Fatalf("%s: a summary of %d bytes that says %d (%v)", name, len(raw), sum.Size(), err)
			}
		}
	}
}

// made is a body of any size that needs no memory.
type made struct {
	n    int64
	guid slot.GUID
}

func (m made) Size() int64     { return m.n }
func (m made) GUID() slot.GUID { return m.guid }
func (m made) ReadAt(p []byte, off int64) (int, error) {
	const line = "Lines of sixty-four bytes, so that it looks like mail to many.\r\n"
	for n := copy(p, line[off%64:]); n < len(p); {
		n += copy(p[n:], line)
	}
	if off+int64(len(p)) > m.n {
		return int(max(m.n-off, 0)), io.EOF
	}
	return len(p), nil
}

// A message of the largest size that nodes accept by default is one like any
// other; one over the Store's own limit is refused before a byte of it is read.
func TestMessageAtTheLimit(t *testing.T) {
	const size = 100 << 20
	o := options(t, newFS(t))
	o.FS, o.Dir = vfs.Default, t.TempDir()
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	large := made{n: size}
	sum := (&storage.SpoolDir{FS: vfs.Default, Dir: t.TempDir()}).New()
	defer sum.Close()
	if _, err := io.Copy(sum, io.NewSectionReader(large, 0, size)); err != nil {
		t.Fatal(err)
	}
	large.guid = sum.GUID()
	ctx := context.Background()
	got, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "INBOX", Body: large})
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.OpenBody(ctx, refOf(t, m, a, "INBOX"), got.UID) // proves the checksum
	if err != nil || b.Size() != size {
		t.Fatalf("%v, %v", b, err)
	}
	b.Close()
	over := made{n: storage.MaxMessageBytes + 1}
	if _, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "INBOX", Body: over}); !errors.Is(err, storage.ErrTooBig) {
		t.Errorf("append over the limit: %v", err)
	}
	for _, err := range m.Deliver(ctx, storage.Delivery{Body: over, Recipients: []storage.Recipient{{Account: a.ID}}}) {
		if !errors.Is(err, storage.ErrTooBig) {
			t.Errorf("deliver over the limit: %v", err)
		}
	}
}

// What the store refuses leaves nothing behind, and its error has a kind.
func TestDoorOfTheStore(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	deliver(t, m, mail(1), a)
	ref := refOf(t, m, a, "INBOX")
	if _, err := m.CreateMailbox(ctx, a.ID, "a/b/c", ""); err != nil {
		t.Fatal(err)
	}
	before, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	words := make([]string, 10_000)
	for i := range words {
		words[i] = fmt.Sprintf("k%d", i)
	}
	set := func(op storage.FlagOp, f storage.Flags) error {
		_, err := m.SetFlags(ctx, ref, []storage.UID{1}, storage.FlagChange{Op: op, Flags: f})
		return err
	}
	create := func(name string, use storage.SpecialUse) error {
		_, err := m.CreateMailbox(ctx, a.ID, name, use)
		return err
	}
	add := func(r storage.Append) error {
		r.Body = spooled("x")
		_, err := m.Append(ctx, a.ID, r)
		return err
	}
	newAccount := func(addr slot.Address, quota int64) error {
		_, err := m.CreateAccount(ctx, addr, "pw", quota)
		return err
	}
	deep, long := strings.Repeat("x/", 28)+"x", strings.Repeat("y", 998)
	for _, tt := range []struct {
		what string
		err  error
		want error
	}{
		{"10,000 keywords", set(storage.FlagsAdd, storage.Flags{Keywords: words}), storage.ErrLimit},
		{"keyword of broken UTF-8", set(storage.FlagsReplace, storage.Flags{Keywords: []string{"\xff"}}), storage.ErrInvalid},
		{"unknown flag", set(storage.FlagsAdd, storage.Flags{System: 128}), storage.ErrInvalid},
		{"unknown operation", set(7, storage.Flags{}), storage.ErrInvalid},
		{"long name", create(strings.Repeat("n", 1001), ""), storage.ErrLimit},
		{"many levels", create(strings.Repeat("n/", 30)+"n", ""), storage.ErrLimit},
		{"NUL in a name", create("n\x00", ""), storage.ErrInvalid},
		{"unknown use", create("n", "Nonsense"), storage.ErrInvalid},
		{"tree too deep", m.RenameMailbox(ctx, a.ID, "a", deep), storage.ErrLimit},
		{"tree too long", m.RenameMailbox(ctx, a.ID, "a", long), storage.ErrLimit},
		{"subscription too long", m.Subscribe(ctx, a.ID, strings.Repeat("n", 1001), true), storage.ErrLimit},
		{"append in the year 10000", add(storage.Append{Mailbox: "INBOX", InternalDate: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}), storage.ErrInvalid},
		{"append with a broken keyword", add(storage.Append{Mailbox: "INBOX", Flags: storage.Flags{Keywords: []string{"a b"}}}), storage.ErrInvalid},
		{"append to a broken name", add(storage.Append{Mailbox: "\xff"}), storage.ErrInvalid},
		{"account in capitals", newAccount("U2@example.test", 0), storage.ErrInvalid},
		{"account with NUL", newAccount("u\x00@example.test", 0), storage.ErrInvalid},
		{"negative quota", newAccount("u2@example.test", -1), storage.ErrInvalid},
		{"long password", m.SetPassword(ctx, a.ID, strings.Repeat("p", 1001)), storage.ErrInvalid},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, tt.err, tt.want)
		}
	}
	if after, err := s.Head(); err != nil || after.Position != before.Position {
		t.Errorf("what was refused made events: %s, then %s (%v)", before.Position, after.Position, err)
	}
}

// A mailbox may use any number of keywords, and dates of any year of four digits.
func TestManyKeywordsAndDates(t *testing.T) {
	ctx := context.Background()
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	ref := refOf(t, m, a, "INBOX")
	var want []storage.Message
	for i := range 157 {
		f := storage.Flags{}
		for k := range 64 {
			f.Keywords = append(f.Keywords, fmt.Sprintf("Key%05d", 64*i+k))
		}
		date := time.Date(1+i*9998/156, 1, 2, 3, 4, 5, 0, time.UTC)
		got, err := m.Append(ctx, a.ID, storage.Append{Mailbox: "INBOX", Body: spooled(mail(i)), Flags: f, InternalDate: date})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, storage.Message{UID: got.UID, Flags: f, InternalDate: date})
	}
	i := 0
	if err := m.Scan(ctx, ref, 0, ^storage.UID(0), func(msg storage.Message) error {
		if w := want[i]; msg.UID != w.UID || !msg.Flags.Equal(w.Flags) || !msg.InternalDate.Equal(w.InternalDate) {
			t.Errorf("UID %d: %v %v", msg.UID, msg.Flags, msg.InternalDate)
		}
		i++
		return nil
	}); err != nil || i != len(want) {
		t.Fatalf("%d messages, %v", i, err)
	}
}
