package local

import (
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"google.golang.org/protobuf/proto"

	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// A copy that a failover has left behind compares histories with its master when it
// follows, and sets its state aside when that has diverged (SetAside). After a Refill there
// is nothing to compare. So an old index that ends in an epoch before Raft's goes to
// quarantine/ under the name of a state that was set aside: its packs stay, what only it has
// is listed as far as it can be read, and a person is told (law 7).

// leftBehind gives such an old index that name. One of which the end cannot be read has
// nothing that could be listed either.
func (rb *rebuild) leftBehind() error {
	if there, err := index.Exists(rb.fs, rb.index()); err != nil || !there {
		return err
	}
	s := newSlot(rb.o)
	x := openSalvage(s, rb.index())
	defer x.Close()
	var head event.HeadRecord
	var rec event.SlotRecord
	if err := s.guarded(func() error {
		for key, into := range map[string]proto.Message{string(event.HeadKey()): &head, string(event.SlotKey()): &rec} {
			if v, found, err := x.Get([]byte(key)); err != nil || !found || unmarshal(v, into) != nil {
				head.Position = 0
			}
		}
		return nil
	}); err != nil {
		return err
	}
	end, last := slot.Position(head.Position), rec.SlotLineage().Last()
	if end == 0 || last >= rb.mark.Epoch {
		return nil
	}
	name := fmt.Sprintf("%s%d-%d", setAsidePrefix, end.Epoch(), end.N())
	if _, err := rb.fs.Stat(rb.quarantine(name)); !oserror.IsNotExist(err) {
		return err // it was set aside before, whole
	}
	rb.mark.Old = name
	return nil
}

// noteAside puts into an old index that is about to be set aside what belongs beside it.
// What the copy was in its last epoch is left out: the worst is then assumed
// (Aside.MayBeAcknowledged).
func (rb *rebuild) noteAside() error {
	if asideHead(rb.mark.Old) == 0 {
		return nil
	}
	s := newSlot(rb.o)
	packs, err := blob.Open(blob.Options{FS: rb.fs, Dir: rb.o.PacksDir, Cluster: rb.o.Cluster, Slot: rb.o.Slot})
	if err != nil {
		return err
	}
	defer packs.Close()
	s.packs = packs
	if err := s.writePinFile(rb.index()); err != nil {
		return err
	}
	return s.writeAside(rb.fs.PathJoin(rb.index(), asideFile), asideNote{Wall: rb.o.Clock.Wall().Unix()})
}
