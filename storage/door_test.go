package storage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"mailnode/storage/slot"
)

// sized is a body of which only the size is asked.
type sized int64

func (s sized) Size() int64                       { return int64(s) }
func (s sized) GUID() slot.GUID                   { panic("not asked for") }
func (s sized) ReadAt([]byte, int64) (int, error) { panic("read before it was checked") }

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("k%d", i)
	}
	return out
}

func TestDoor(t *testing.T) {
	now := time.Unix(1_790_000_000, 5)
	appended := func(change func(*Append)) error {
		r := Append{Mailbox: "INBOX", Body: sized(5)}
		change(&r)
		_, err := r.Canonical(now)
		return err
	}
	date := func(year int, zone *time.Location) error {
		return appended(func(r *Append) { r.InternalDate = time.Date(year, 12, 31, 23, 59, 59, 0, zone) })
	}
	west := time.FixedZone("", -12*3600)
	for _, tt := range []struct {
		what string
		err  error
		want error
	}{
		{"size 0", appended(func(r *Append) { r.Body = sized(0) }), nil},
		{"size at the limit", appended(func(r *Append) { r.Body = sized(MaxMessageBytes) }), nil},
		{"size over the limit", appended(func(r *Append) { r.Body = sized(MaxMessageBytes + 1) }), ErrTooBig},
		{"size below 0", appended(func(r *Append) { r.Body = sized(-1) }), ErrInvalid},
		{"year 1", date(1, time.UTC), nil},
		{"year 1969", date(1969, time.UTC), nil},
		{"year 9999", date(9999, time.UTC), nil},
		{"year 0", date(0, time.UTC), ErrInvalid},
		{"year 0 that is year 1 in UTC", date(0, west), nil},
		{"year -5", date(-5, time.UTC), ErrInvalid},
		{"year 9999 that is 10000 in UTC", date(9999, west), ErrInvalid},
		{"64 keywords", appended(func(r *Append) { r.Flags.Keywords = many(64) }), nil},
		{"65 keywords", appended(func(r *Append) { r.Flags.Keywords = many(65) }), ErrLimit},
		{"10,000 keywords", appended(func(r *Append) { r.Flags.Keywords = many(10_000) }), ErrLimit},
		{"long keyword", appended(func(r *Append) { r.Flags.Keywords = []string{strings.Repeat("k", 101)} }), ErrInvalid},
		{"empty keyword", appended(func(r *Append) { r.Flags.Keywords = []string{""} }), ErrInvalid},
		{"keyword with NUL", appended(func(r *Append) { r.Flags.Keywords = []string{"a\x00"} }), ErrInvalid},
		{"8-bit keyword", appended(func(r *Append) { r.Flags.Keywords = []string{"\xff"} }), ErrInvalid},
		{"unknown system flag", appended(func(r *Append) { r.Flags.System = 1 << 7 }), ErrInvalid},
		{"long name", appended(func(r *Append) { r.Mailbox = strings.Repeat("x", 1001) }), ErrLimit},
		{"name of 1 MiB", appended(func(r *Append) { r.Mailbox = strings.Repeat("x", 1<<20) }), ErrLimit},
		{"31 levels", appended(func(r *Append) { r.Mailbox = strings.Repeat("x/", 30) + "x" }), ErrLimit},
		{"name with NUL", appended(func(r *Append) { r.Mailbox = "a\x00b" }), ErrInvalid},
		{"8-bit name", appended(func(r *Append) { r.Mailbox = "a\xff" }), ErrInvalid},
		{"use", SpecialUse("Junk").Check(), nil},
		{"unknown use", SpecialUse("\xff").Check(), ErrInvalid},
		{"address", CheckAddress("a@b"), nil},
		{"address in capitals", CheckAddress("A@b"), ErrInvalid},
		{"address with NUL", CheckAddress("a\x00@b"), ErrInvalid},
		{"long address", CheckAddress(slot.Address(strings.Repeat("a", 254) + "@b")), ErrInvalid},
	} {
		if tt.want == nil && tt.err != nil || !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, tt.err, tt.want)
		}
	}
	if r, _ := (Append{Mailbox: "inbox/x", Body: sized(1)}).Canonical(now); r.Mailbox != "INBOX/x" || r.InternalDate.UnixNano() != 1_790_000_000e9 {
		t.Errorf("stored form %+v", r)
	}
	errs := make([]error, 3)
	d := Delivery{Body: sized(1), Recipients: []Recipient{{Address: "a@b"}, {Address: "A@b"}, {}}}
	if _, err := d.Canonical(now, errs); err != nil || errs[0] != nil || !errors.Is(errs[1], ErrInvalid) || errs[2] != nil {
		t.Errorf("delivery: %v, %v", err, errs)
	}
	d.InternalDate = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := d.Canonical(now, errs); !errors.Is(err, ErrInvalid) {
		t.Errorf("delivery in the year 10000: %v", err)
	}
	for _, op := range []FlagOp{-1, 3} {
		if _, err := (FlagChange{Op: op}).Canonical(); !errors.Is(err, ErrInvalid) {
			t.Errorf("flag operation %d: %v", op, err)
		}
	}
}

// A name that passes is a fixed point, and can be shown.
func FuzzMailboxName(f *testing.F) {
	for _, s := range []string{"INBOX", "inbox/a", "a/b/", "//", "a\x00", "\xff", "é/ü", "\u2028", strings.Repeat("x/", 40), strings.Repeat("y", 1001)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := CanonicalMailboxName(name)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrLimit) {
				t.Fatalf("%q: %v has no kind", name, err)
			}
			return
		}
		again, err := CanonicalMailboxName(got)
		if err != nil || again != got || !utf8.ValidString(got) || len(got) > MaxMailboxNameBytes || strings.ContainsAny(got, "\x00\r\n") {
			t.Fatalf("%q became %q, then %q (%v)", name, got, again, err)
		}
	})
}

// Flags that pass are a fixed point: sorted, each once, atoms.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{`\Seen \Deleted a B b`, `\Recent`, `\Nonsense`, "a\x00", "\xff", "(", strings.Repeat("k ", 100)} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, words string, system uint8) {
		parsed, err := ParseFlags(strings.Split(words, " "))
		if err == nil {
			if again, err := ParseFlags(parsed.Names()); err != nil || !again.Equal(parsed) {
				t.Fatalf("%q: %v, then %v (%v)", words, parsed, again, err)
			}
		}
		got, err := Flags{System: SystemFlags(system), Keywords: strings.Split(words, " ")}.Canonical()
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrLimit) {
				t.Fatalf("%q: %v has no kind", words, err)
			}
			return
		}
		again, err := got.Canonical()
		if err != nil || !slices.Equal(again.Keywords, got.Keywords) || !slices.IsSortedFunc(got.Keywords, compareFold) {
			t.Fatalf("%q: %v, then %v (%v)", words, got, again, err)
		}
	})
}
