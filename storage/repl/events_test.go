package repl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mailnode/storage"
	"mailnode/storage/event"
)

// Whatever the sizes of events, they arrive whole and in order, and no message is
// larger than a frame.
func TestEventsArriveAsTheyWereSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var events [][]byte
		for i, size := range rapid.SliceOfN(rapid.SampledFrom([]int{1, 100, frameBytesMax / 2, frameBytesMax/2 + 1, frameBytesMax, frameBytesMax + 1, 3 * frameBytesMax}), 0, 8).Draw(t, "sizes") {
			events = append(events, bytes.Repeat([]byte{byte(i)}, size))
		}
		var parts joiner
		var got [][]byte
		if err := sendEvents(events, func(group [][]byte, part *EventPart) error {
			size := len(part.GetData())
			for _, e := range group {
				size += len(e)
			}
			if size > frameBytesMax || size == 0 {
				t.Fatalf("a message of %d bytes", size)
			}
			raws, err := parts.take(group, part)
			got = append(got, raws...)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(events) {
			t.Fatalf("%d events arrived, %d were sent", len(got), len(events))
		}
		for i := range got {
			if !bytes.Equal(got[i], events[i]) {
				t.Fatalf("event %d arrived otherwise", i)
			}
		}
	})
}

// An event that never ends is not gathered for ever, and no part is believed
// without its checksum.
func TestLaw06Law09PartsAreProvedAndBounded(t *testing.T) {
	part := func(last bool) *EventPart {
		b := bytes.Repeat([]byte("x"), 100)
		return &EventPart{Data: b, Crc32C: event.Checksum(b), Last: last}
	}
	j := joiner{bytesMax: 1000}
	for i := range 10 {
		if _, err := j.take(nil, part(false)); err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
	}
	if _, err := j.take(nil, part(true)); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("more than it may have: %v", err)
	}
	j = joiner{}
	bad := part(true)
	bad.Data[7] ^= 1
	if _, err := j.take(nil, bad); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
	if _, err := j.take(nil, part(false)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.take([][]byte{[]byte("y")}, nil); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("another event amid the parts of one: %v", err)
	}
}

// A COPY of many messages is one event of any size; whoever is to be promoted
// takes it from another copy all the same.
func TestLaw01CatchUpTakesALargeEvent(t *testing.T) {
	n1, n2 := newSide(t, "n1"), newSide(t, "n2")
	n1.lead(1, 0, &record{}, 100*time.Millisecond)
	a := n1.account("u1@example.test")
	var to []string
	for i := range 150 { // long summaries: few messages make a large event
		to = append(to, fmt.Sprintf("Some Body <somebody-with-a-name-%d@another-example.test>", i))
	}
	for i := range 30 {
		if err := n1.deliver(a, fmt.Sprintf("From: someone <someone%d@example.test>\r\nTo: %s\r\nSubject: %d\r\nMessage-ID: <%d@example.test>\r\n\r\nx\r\n", i, strings.Join(to, ",\r\n "), i, i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	box, err := n1.master.Mailbox(ctx, a.ID, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	ref := storage.Ref{Account: a.ID, Mailbox: box.ID}
	largest := 0
	for n := 30; n < 960; n *= 2 { // doubles itself
		var uids []storage.UID
		if err := n1.master.Scan(ctx, ref, 1, ^storage.UID(0), func(m storage.Message) error { uids = append(uids, m.UID); return nil }); err != nil {
			t.Fatal(err)
		}
		if n*2 >= 960 { // the last one only n1 has
			n2.follow(n1, 1)
			sameState(t, n1, n2)
			n2.endRole()
		}
		before, _ := n1.copy.Head()
		if _, err := n1.master.Copy(ctx, ref, uids, "INBOX"); err != nil {
			t.Fatal(err)
		}
		raws, _, err := n1.copy.JournalAfter(before.Position, 1)
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, len(raws[0]))
	}
	if largest <= 4<<20 {
		t.Fatalf("the largest event has %d bytes: too few to prove anything", largest)
	}
	if err := n1.deliver(a, text(1, 10)); err != nil { // and one behind it
		t.Fatal(err)
	}
	n1.endRole()
	if _, err := CatchUp(ctx, n2.copy, NewReplicationClient(n1.conn), n2.spool); err != nil {
		t.Errorf("catch up: %v", err)
	}
	sameState(t, n1, n2)
}
