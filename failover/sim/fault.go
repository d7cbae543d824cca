package sim

import "mailnode/raftfsm/cluster"

// Fault is a known fault, put back at the seam between a decision and what carries
// it out.
type Fault string

// The faults, each as it once was in the code, or breaks one rule of a hand-over or
// of a drop.
const (
	NoFault               Fault = ""
	FaultAloneForgotten   Fault = "alone-forgotten"    // a restart forgets what was acknowledged alone
	FaultSettingIgnored   Fault = "setting-ignored"    // ack = "local" in a protected epoch is not recorded
	FaultRefusalIsUnknown Fault = "refusal-is-unknown" // "your epoch is over" is taken for a lost quorum
	FaultOldPlan          Fault = "old-plan"           // a confirm does not say what record its plan rests on
	FaultNoEvidence       Fault = "no-evidence"        // plans do not know what a replica was heard to hold
	FaultFreshIsOld       Fault = "fresh-is-old"       // a fresh state is read before it is applied
	FaultLateRecord       Fault = "late-record"        // a record of protection may undo a newer one
	FaultNoPromise        Fault = "no-promise"         // who was asked goes on acknowledging to the old master
	FaultDroppedInSilence Fault = "dropped-in-silence" // a diverged copy that is told to refill is not set aside
	FaultUnlisted         Fault = "unlisted"           // a node that Raft does not list follows and counts
	FaultNoClaim          Fault = "no-claim"           // a master that serves again does not replace the record
	FaultSeenIgnored      Fault = "seen-ignored"       // an epoch begins that was served already, and forgotten
	FaultUnsealedEarly    Fault = "unsealed-early"     // a master writes again before it has applied that the hand-over was given up
	FaultBegunIgnored     Fault = "begun-ignored"      // a hand-over is committed by a word about an earlier one
	FaultBeginsUnsealed   Fault = "begins-unsealed"    // a master that starts in a hand-over takes changes
	FaultTargetLacks      Fault = "target-lacks"       // a slot is handed over before its target holds all
	FaultSealedTooSoon    Fault = "sealed-too-soon"    // changes that had begun before the seal are not waited for
	FaultNeverBegun       Fault = "never-begun"        // an epoch that a hand-over began is not recorded as begun
	FaultDroppedUnproved  Fault = "dropped-unproved"   // a replica that counts is dropped, and the others are taken for ones that hold everything
	FaultRemovedUnasked   Fault = "removed-unasked"    // a dropped copy is removed without asking the master
)

func (w *world) is(f Fault) bool { return w.fault == f }

// putBack makes a command what it was while the fault was in the code.
func (w *world) putBack(c cluster.Command) cluster.Command {
	now := w.record().Version
	switch x := c.(type) {
	case cluster.ConfirmSlot:
		if w.is(FaultOldPlan) {
			x.Version = now
		}
		if w.is(FaultSeenIgnored) {
			x.Seen = 0
		}
		return x
	case cluster.CommitHandOver:
		if h := w.record().HandOver; w.is(FaultBegunIgnored) && h != nil {
			x.Begun = h.Begun
		}
		return x
	case cluster.SetProtected:
		if w.is(FaultLateRecord) {
			x.Version = now
		}
		return x
	case cluster.SetUnprotected:
		if w.is(FaultLateRecord) {
			x.Version = now
		}
		return x
	}
	return c
}

// Faults lists all.
func Faults() []Fault {
	return []Fault{FaultAloneForgotten, FaultSettingIgnored, FaultRefusalIsUnknown, FaultOldPlan, FaultNoEvidence, FaultFreshIsOld,
		FaultLateRecord, FaultNoPromise, FaultDroppedInSilence, FaultUnlisted, FaultNoClaim, FaultSeenIgnored,
		FaultUnsealedEarly, FaultBegunIgnored, FaultBeginsUnsealed, FaultTargetLacks, FaultSealedTooSoon, FaultNeverBegun,
		FaultDroppedUnproved, FaultRemovedUnasked}
}
