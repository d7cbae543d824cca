package event

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// world is what all histories of one slot have given out for one address. Each
// number may be given out once.
type world struct {
	validities map[uint32]string
	uids       map[[2]uint32]string
	epoch      slot.Epoch
	unclean    slot.UncleanCount
	ids        uint64
	content    uint64
}

// delivered is a message in the model: born counts the events before it.
type delivered struct {
	rec     *MessageRecord
	content uint64
}

// history is one line of a slot's past: what one copy has.
type history struct {
	w       *world
	name    string
	x       slot.UncleanCount
	pos     slot.Position
	slotRec *SlotRecord
	address *AddressRecord
	account *AccountRecord
	boxes   map[uint64]*MailboxRecord
	mail    map[uint64][]delivered // by mailbox
	events  []uint64               // what was delivered, ever, in order
	at      map[slot.Position]int  // how many of events at each position
	lost    bool                   // an index was rebuilt in it
}

func (h *history) clone(name string) *history {
	c := *h
	c.name, c.slotRec, c.address = name, proto.CloneOf(h.slotRec), proto.CloneOf(h.address)
	if h.account != nil {
		c.account = proto.CloneOf(h.account)
	}
	c.boxes, c.mail = map[uint64]*MailboxRecord{}, map[uint64][]delivered{}
	for id, b := range h.boxes {
		c.boxes[id], c.mail[id] = proto.CloneOf(b), slices.Clone(h.mail[id])
	}
	c.events, c.at = slices.Clone(h.events), maps.Clone(h.at)
	return &c
}

// begin is an unclean promotion of the copy: what master.go does.
func (h *history) begin(steps int) {
	h.w.epoch++
	h.w.unclean += slot.UncleanCount(steps)
	h.x = h.w.unclean
	h.slotRec.Lineage = append(h.slotRec.Lineage, &Branch{Epoch: uint32(h.w.epoch), After: uint64(h.pos), Unclean: uint32(h.x)})
	h.slotRec.Unclean = uint32(h.x)
	h.pos = slot.At(h.w.epoch, 0)
	h.step()
}

func (h *history) step() {
	h.pos++
	h.at[h.pos] = len(h.events)
}

// renewed gives a mailbox a UIDVALIDITY, and proves that it is a new one.
func (h *history) renewed(t *rapid.T, b *MailboxRecord) bool {
	if !NewUIDValidity(h.account, b, h.x) {
		return false
	}
	if b.Uidvalidity == 0 {
		t.Fatalf("%s: UIDVALIDITY 0", h.name)
	}
	if by, taken := h.w.validities[b.Uidvalidity]; taken {
		t.Fatalf("UIDVALIDITY %d: given out in history %s and in %s", b.Uidvalidity, by, h.name)
	}
	h.w.validities[b.Uidvalidity] = h.name
	return true
}

func (h *history) createBox(t *rapid.T) {
	if h.account == nil {
		return
	}
	h.w.ids++
	b := &MailboxRecord{Account: h.account.Id, Id: h.w.ids, Born: uint64(h.pos + 1)}
	if h.renewed(t, b) {
		h.boxes[b.Id] = b
	}
	h.step()
}

func (h *history) createAccount(t *rapid.T) {
	if h.account != nil {
		return
	}
	h.w.ids++
	// The clock is shown and stored: it decides nothing (law 11).
	a := &AccountRecord{Id: h.w.ids, Address: "u@example.test", CreatedUnix: rapid.Int64Range(0, 1<<33).Draw(t, "clock")}
	if !SeedUIDValidity(a, h.address, "cluster", h.x, h.slotRec.LossesUnder(h.x)) {
		t.Fatalf("%s: no UIDVALIDITY for the address", h.name)
	}
	h.account, h.address.Erased = a, false
	h.createBox(t)
}

func (h *history) erase() {
	if h.account == nil {
		return
	}
	EraseAddress(h.address, h.account)
	h.account, h.boxes, h.mail = nil, map[uint64]*MailboxRecord{}, map[uint64][]delivered{}
	h.step()
}

// box draws a mailbox, nil when there is none.
func (h *history) box(t *rapid.T) *MailboxRecord {
	if len(h.boxes) == 0 {
		return nil
	}
	return h.boxes[rapid.SampledFrom(slices.Sorted(maps.Keys(h.boxes))).Draw(t, "mailbox")]
}

func (h *history) deliver(t *rapid.T, n int) {
	b := h.box(t)
	if b == nil {
		return
	}
	first, ok := TakeUIDs(b, h.x, n)
	if !ok {
		if !h.renewed(t, b) {
			return
		}
		if first, ok = TakeUIDs(b, h.x, n); !ok {
			t.Fatalf("%s: a fresh range has no room", h.name)
		}
	}
	h.step()
	for _, u := range []uint32{uint32(first), uint32(first) + uint32(n) - 1} {
		key, by := [2]uint32{b.Uidvalidity, u}, fmt.Sprintf("%s at %s", h.name, h.pos)
		if was, taken := h.w.uids[key]; taken && was != by {
			t.Fatalf("UID %d of UIDVALIDITY %d: given out in history %s and in %s", u, b.Uidvalidity, was, by)
		}
		h.w.uids[key] = by
	}
	h.w.content++
	c := h.w.content
	h.mail[b.Id] = append(h.mail[b.Id], delivered{&MessageRecord{Uid: uint32(first), Modseq: uint64(h.pos)}, c})
	h.events = append(h.events, c)
	h.at[h.pos] = len(h.events)
}

// restore gives a mailbox a new UIDVALIDITY, as undelete and reindex do.
func (h *history) restore(t *rapid.T) {
	if b := h.box(t); b != nil && h.renewed(t, b) {
		b.Changed = uint64(h.pos + 1)
		h.step()
	}
}

// flag changes a message's MODSEQ, so that it says nothing about its birth.
func (h *history) flag(t *rapid.T) {
	b := h.box(t)
	if b == nil || len(h.mail[b.Id]) == 0 {
		return
	}
	h.step()
	i := rapid.IntRange(0, len(h.mail[b.Id])-1).Draw(t, "message")
	d := &h.mail[b.Id][i]
	d.rec = proto.CloneOf(d.rec)
	d.rec.Modseq = uint64(h.pos)
}

// rebuild loses the index: of the account, the address and each mailbox an older
// record is left, or none.
func (h *history) rebuild(t *rapid.T, older *history) {
	h.slotRec.Losses, h.slotRec.LossesUnclean = h.slotRec.Losses+1, uint32(h.x)
	h.lost = true
	h.step()
	if rapid.Bool().Draw(t, "address lost") {
		h.address = &AddressRecord{}
	}
	if h.account == nil {
		return
	}
	known := uint32(0)
	for _, id := range slices.Sorted(maps.Keys(h.boxes)) {
		b := h.boxes[id]
		switch rapid.IntRange(0, 2).Draw(t, "mailbox lost") {
		case 0:
			h.boxes[id] = &MailboxRecord{Account: b.Account, Id: b.Id, Born: uint64(h.pos)}
		case 1:
			if o := older.boxes[id]; o != nil {
				h.boxes[id] = proto.CloneOf(o)
			}
		}
		known = max(known, h.boxes[id].Uidvalidity)
	}
	next := uint32(0)
	if older.account != nil && older.account.Id == h.account.Id {
		next = older.account.UidvalidityNext
	}
	stale := &AccountRecord{Id: h.account.Id, Address: h.account.Address}
	if next > 0 && rapid.Bool().Draw(t, "old account record") {
		stale = proto.CloneOf(older.account)
	}
	h.account = stale
	if !LeapUIDValidity(h.account, "cluster", h.x, known, int(h.slotRec.Losses)) {
		t.Fatalf("%s: no UIDVALIDITY after a loss", h.name)
	}
	for _, id := range slices.Sorted(maps.Keys(h.boxes)) {
		b := h.boxes[id]
		MarkUnclean(b, h.x)
		for _, d := range h.mail[id] {
			b.Uidnext = max(b.Uidnext, d.rec.Uid+1)
		}
		ok := h.renewed(t, b)
		for !ok && h.slotRec.Losses < leapsMax { // its part of the range is used up
			h.slotRec.Losses++
			ok = LeapUIDValidity(h.account, "cluster", h.x, known, int(h.slotRec.Losses)) && h.renewed(t, b)
		}
		if !ok {
			delete(h.boxes, id)
			delete(h.mail, id)
		}
	}
}

// newRoot begins the history that all share.
func newRoot() *history {
	w := &world{validities: map[uint32]string{}, uids: map[[2]uint32]string{}, epoch: 1}
	return &history{w: w, name: "root", pos: slot.At(1, 1), slotRec: &SlotRecord{Lineage: []*Branch{{Epoch: 1}}}, address: &AddressRecord{},
		boxes: map[uint64]*MailboxRecord{}, mail: map[uint64][]delivered{}, at: map[slot.Position]int{}}
}

// play runs operations on histories that fork from each other, in the same
// second or a year apart, from what a copy has or had.
func play(t *rapid.T, losses bool) (histories []*history, forks map[[2]int]slot.Position) {
	histories = []*history{newRoot()}
	older := map[int][]*history{}
	forks = map[[2]int]slot.Position{}
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		i := rapid.IntRange(0, len(histories)-1).Draw(t, "history")
		h := histories[i]
		switch rapid.SampledFrom([]string{"account", "account", "erase", "mailbox", "mailboxes", "deliver", "deliver", "fill", "restore", "flag", "remember", "fork", "promote", "lose"}).Draw(t, "step") {
		case "account":
			h.createAccount(t)
		case "erase":
			h.erase()
		case "mailbox":
			h.createBox(t)
		case "mailboxes":
			for range rapid.SampledFrom([]int{5, 300, 33000}).Draw(t, "n") {
				if b := (&MailboxRecord{}); h.account == nil || !h.renewed(t, b) {
					break
				}
			}
		case "deliver":
			h.deliver(t, 1)
		case "fill":
			h.deliver(t, uidRange-2)
		case "restore":
			h.restore(t)
		case "flag":
			h.flag(t)
		case "remember":
			older[i] = append(older[i], h.clone(h.name))
		case "promote": // the copy goes on, as the master of a new unclean epoch
			h.begin(rapid.SampledFrom([]int{1, 1, 2, 16}).Draw(t, "unclean"))
		case "fork": // a copy that is behind is promoted; the old master does not know
			from := h
			if n := len(older[i]); n > 0 && !h.lost && rapid.Bool().Draw(t, "stale") {
				from = older[i][rapid.IntRange(0, n-1).Draw(t, "which")]
			}
			c := from.clone(fmt.Sprintf("%d", len(histories)))
			for j := range histories {
				shared := min(from.pos, forkOf(forks, i, j, from.pos))
				forks[[2]int{j, len(histories)}] = shared
			}
			c.begin(rapid.SampledFrom([]int{1, 1, 2, 16}).Draw(t, "unclean"))
			histories = append(histories, c)
		case "lose":
			if losses && h.slotRec.Losses < 4 {
				past := h
				if n := len(older[i]); n > 0 {
					past = older[i][rapid.IntRange(0, n-1).Draw(t, "which")]
				}
				h.rebuild(t, past)
			}
		}
		if len(histories) > 3 {
			break
		}
	}
	return histories, forks
}

func forkOf(forks map[[2]int]slot.Position, i, j int, self slot.Position) slot.Position {
	if i == j {
		return self
	}
	return forks[[2]int{min(i, j), max(i, j)}]
}

// Histories part at any moment and go on, each under unclean counts of its own,
// whatever their clocks say; none ever gives out a UIDVALIDITY of the address,
// or a UID of it, that another one gives out, nor one of its own twice.
func TestLaw02Law11HistoriesNeverShareNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { play(t, true) })
}

// For every message that a copy has which parted from the master's history, the
// records show whether it is new, also when UIDVALIDITYs changed since on either
// side; and where a record was lost, a new one is never taken for old (law 7).
func TestLaw07NewSinceTheForkIsKnown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		losses := rapid.Bool().Draw(t, "losses")
		histories, forks := play(t, losses)
		for i, aside := range histories {
			for j, master := range histories {
				if i == j {
					continue
				}
				shared := forks[[2]int{min(i, j), max(i, j)}]
				checkFork(t, aside, master, shared)
			}
		}
	})
}

func checkFork(t *rapid.T, aside, master *history, shared slot.Position) {
	f := ForkOf(master.slotRec, shared)
	before := aside.events[:aside.at[shared]]
	for id, mail := range aside.mail {
		for _, d := range mail {
			want := New
			if slices.Contains(before, d.content) {
				want = Old
			}
			got := f.Message(master.boxes[id], aside.boxes[id], d.rec, 0)
			lost := aside.lost || master.lost || master.boxes[id] == nil
			switch {
			case got == want:
			case want == New && got == Old:
				t.Fatalf("message %d of history %s, with %s as master, shared up to %s: old, it is new\n%v\n%v", d.rec.Uid, aside.name, master.name, shared, aside.boxes[id], master.boxes[id])
			case !lost:
				t.Fatalf("message %d of history %s, with %s as master, shared up to %s: %s, want %s\n%v\n%v", d.rec.Uid, aside.name, master.name, shared, got, want, aside.boxes[id], master.boxes[id])
			}
		}
	}
}

// What a mailbox record says of its unclean epochs, line by line.
func TestLaw07BeganFromRemembersEachUncleanEpoch(t *testing.T) {
	for _, c := range []struct {
		name string
		m    *MailboxRecord
		x    slot.UncleanCount
		want storage.UID // 0: not known
	}{
		{"nothing came in since", &MailboxRecord{Uidnext: 10, UidOrigin: 1}, 1, 10},
		{"the mark of the epoch", &MailboxRecord{Uidnext: 99, UidOrigin: 1, Marks: []*UncleanMark{{Unclean: 2, Uidnext: 10}}}, 2, 10},
		{"of the next in which something came in", &MailboxRecord{Uidnext: 99, UidOrigin: 1, Marks: []*UncleanMark{{Unclean: 2, Uidnext: 10}}}, 1, 10},
		{"born since", &MailboxRecord{Uidnext: 99, UidOrigin: 1, UidBirth: 2}, 1, 0},
		{"born since, and marked since", &MailboxRecord{Uidnext: 99, UidOrigin: 1, UidBirth: 2, Marks: []*UncleanMark{{Unclean: 3, Uidnext: 50}}}, 2, 0},
		{"a new UIDVALIDITY since, with its mark", &MailboxRecord{Uidnext: 99, UidOrigin: 10, UidBirth: 2, Marks: []*UncleanMark{{Unclean: 2, Uidnext: 10}}}, 1, 10},
		{"marks of epochs before are not asked", &MailboxRecord{Uidnext: 99, UidOrigin: 10, UidBirth: 2, Marks: []*UncleanMark{{Unclean: 2, Uidnext: 10}}}, 3, 99},
	} {
		got, known := BeganFrom(c.m, c.x)
		if known != (c.want != 0) || got != c.want {
			t.Errorf("%s: BeganFrom(x=%d) = %d, %t, want %d", c.name, c.x, got, known, c.want)
		}
	}
	m := &MailboxRecord{Uidvalidity: 1, Uidnext: 1, UidOrigin: 1}
	TakeUIDs(m, 0, 9)
	if got, want := UIDNext(m, 4), uint32(1+4*uidRange); uint32(got) != want {
		t.Errorf("UIDNEXT under count 4 = %d, want %d", got, want)
	}
}

// The address u@example.test is made on both sides of a failover in one second,
// its mailboxes in the same order: no number is the same (law 11).
func TestLaw02Law11AddressMadeOnBothSides(t *testing.T) {
	validities := func(x slot.UncleanCount) []uint32 {
		a := &AccountRecord{Address: "u@example.test", CreatedUnix: 1764237600}
		if !SeedUIDValidity(a, &AddressRecord{}, "cluster", x, 0) {
			t.Fatal("no UIDVALIDITY")
		}
		var out []uint32
		for range 6 {
			m := &MailboxRecord{}
			if !NewUIDValidity(a, m, x) {
				t.Fatal("no UIDVALIDITY")
			}
			out = append(out, m.Uidvalidity)
		}
		return out
	}
	old, promoted := validities(0), validities(1)
	for _, v := range promoted {
		if slices.Contains(old, v) || v <= slices.Max(old) {
			t.Errorf("the promoted copy gave out %d, the old master %v", v, old)
		}
	}
	// A counter ends; it does not begin again at 0 (RFC 9051, section 9: nz-number).
	last := &AccountRecord{UidvalidityOrigin: 1<<32 - 2, UidvalidityNext: 1<<32 - 2}
	m := &MailboxRecord{}
	if !NewUIDValidity(last, m, 0) || m.Uidvalidity != 1<<32-2 {
		t.Errorf("the last UIDVALIDITY is %d", m.Uidvalidity)
	}
	if NewUIDValidity(last, m, 0) {
		t.Errorf("UIDVALIDITY %d after the last", m.Uidvalidity)
	}
}

// The old master went on alone and did not notice the fork: its own marks begin
// later. The copy that was promoted first, and left behind when the old master
// came back in a later epoch, noted it, although it gave a new UIDVALIDITY then.
func TestLaw07ForkThatTheMasterDidNotNotice(t *testing.T) {
	shared := slot.At(1, 9)
	a := &AccountRecord{Id: 1, Address: "u@example.test"}
	m := &MailboxRecord{Account: 1, Id: 2, Born: uint64(slot.At(1, 2))}
	if !SeedUIDValidity(a, &AddressRecord{}, "cluster", 0, 0) || !NewUIDValidity(a, m, 0) {
		t.Fatal("no UIDVALIDITY")
	}
	TakeUIDs(m, 0, 9)
	asideA, aside := proto.CloneOf(a), proto.CloneOf(m)
	if !NewUIDValidity(asideA, aside, 1) { // restored there, say
		t.Fatal("no UIDVALIDITY")
	}
	first, _ := TakeUIDs(aside, 1, 1)
	TakeUIDs(m, 0, 50)
	TakeUIDs(m, 2, 1)
	f := ForkOf(&SlotRecord{Lineage: []*Branch{{Epoch: 1}, {Epoch: 3, After: uint64(slot.At(1, 60)), Unclean: 2}}}, shared)
	for _, c := range []struct {
		uid  storage.UID
		want Newness
	}{{first - 1, Old}, {first, New}} {
		if got := f.Message(m, aside, &MessageRecord{Uid: uint32(c.uid), Modseq: uint64(slot.At(2, 7))}, 0); got != c.want {
			t.Errorf("UID %d: %s, want %s", c.uid, got, c.want)
		}
	}
}
