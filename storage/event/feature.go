package event

import (
	"mailnode/storage"
	"mailnode/storage/slot"
)

// featureOf returns the least feature level of the cluster at which a kind of change
// may stand in a journal; not for one that this release does not know. A new kind,
// or a new field that changes what a known one means, gets its level here, and
// raftfsm/cluster's KnownFeatures rises.
func featureOf(c *Change) (slot.FeatureLevel, bool) {
	switch c.Record.(type) {
	case *Change_Account, *Change_Address, *Change_Mailbox, *Change_Message, *Change_Expunged, *Change_Subscription,
		*Change_Slot, *Change_Freed, *Change_Missing:
		return slot.FirstFeatureLevel, true
	}
	return 0, false
}

// Permit refuses changes that a member of an older release could not apply. The
// master asks before it makes an event of them: a replica that meets one has to
// set it aside and fetch the whole state, each time.
func Permit(level slot.FeatureLevel, changes []*Change) error {
	return permit(level, changes, featureOf)
}

func permit(level slot.FeatureLevel, changes []*Change, of func(*Change) (slot.FeatureLevel, bool)) error {
	for _, c := range changes {
		need, listed := of(c)
		switch {
		case !listed:
			return storage.Errorf(storage.ErrInvalid, "a kind of change for which no feature level is known")
		case need > level.OrFirst():
			return storage.Errorf(storage.ErrUnavailable, "it needs feature level %d, the cluster has %d: mailnode cluster upgrade", need, level.OrFirst())
		}
	}
	return nil
}
