package local

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// TestLaw05MasterWritesNoFutureChange: what no feature level of the cluster
// covers is refused where events are made, and leaves no trace.
func TestLaw05MasterWritesNoFutureChange(t *testing.T) {
	o := options(t, newFS(t))
	asked := 0
	o.Features = func() slot.FeatureLevel { asked++; return slot.FirstFeatureLevel }
	s := openSlot(t, o)
	m := serve(t, s, 1, 0)
	a := account(t, m, "u1@example.test")
	if asked == 0 {
		t.Error("a master writes without asking for the cluster's level")
	}
	before := len(journalOf(t, s, 0))
	err := s.do(context.Background(), func(tx *txn) error {
		c := &event.Change{}
		c.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), []byte("of a release to come")))
		return m.emit(tx, c)
	})
	if !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("a change of a release to come: %v", err)
	}
	if after := len(journalOf(t, s, 0)); after != before {
		t.Errorf("%d events were made", after-before)
	}
	deliver(t, m, mail(1), a)
}
