package cluster

import (
	"fmt"
	"strings"

	"mailnode/storage/slot"
)

// KnownFeatures is the feature level up to which this release understands
// commands and records. It rises with each release that brings a new kind of
// command, a new field in one, or a new kind of change in a slot's journal: add
// the kind to featureOf here, or to storage/event's, with the new level.
//
// Apply never looks at it: what a node knows must not decide what the state
// becomes. It is written to the node's own member record, and the state decides
// by what is recorded of all.
const KnownFeatures = operatorFeatures

// operatorFeatures is the level of what changes copies and machines while the cluster
// runs.
const operatorFeatures slot.FeatureLevel = 2

// RecoveryFeatures is what every survivor's release must know: RaiseGeneration raises
// the level to it.
const RecoveryFeatures = operatorFeatures

// featureOf returns the least feature level at which a kind of command may stand in
// the log. A kind that is missing here is never committed.
func featureOf(kind string) (slot.FeatureLevel, bool) {
	switch kind {
	case Init{}.kind(), AddMember{}.kind(), UpdateMember{}.kind(), AssignSlot{}.kind(), AddReplica{}.kind(),
		SetUnprotected{}.kind(), SetProtected{}.kind(), OpenProposal{}.kind(),
		UpdateProposal{}.kind(), WithdrawProposal{}.kind(), RejectProposal{}.kind(), ConfirmSlot{}.kind(),
		BeginHandOver{}.kind(), CommitHandOver{}.kind(), AbortHandOver{}.kind(), ResolveLoss{}.kind(),
		AddToken{}.kind(), AgeTokens{}.kind(), RaiseGeneration{}.kind(), RaiseFeatureLevel{}.kind():
		return slot.FirstFeatureLevel, true
	case BeginDrop{}.kind(), CancelDrop{}.kind(), EndDrop{}.kind(), SetReplicas{}.kind(),
		PlanMoves{}.kind(), BeginMove{}.kind(), FinishMove{}.kind(), GiveUpMove{}.kind(), UndoMove{}.kind(), StopMoves{}.kind(),
		RemoveMember{}.kind(), ReplaceMember{}.kind(), kindGroup: // no release before this level had a verb for RemoveMember
		return operatorFeatures, true
	}
	return 0, false
}

// fielded is a command of which a field came later than its kind.
type fielded interface {
	// needs returns the least feature level at which the command may stand in the log
	// with what is in its fields.
	needs() slot.FeatureLevel
}

// levels is featureOf, or a test's with commands of a future release.
type levels func(kind string) (slot.FeatureLevel, bool)

// KindOf names a command as the log does, for texts.
func KindOf(c Command) string { return c.kind() }

// Features returns the feature level of the cluster.
func (s *State) Features() slot.FeatureLevel { return s.FeatureLevel.OrFirst() }

// Knows returns the feature level up to which the member understands records, as
// it has said itself when it started last.
func (m Member) Knows() slot.FeatureLevel { return m.Features.OrFirst() }

// Permit refuses a command whose kind is newer than the cluster's feature level.
// The leader asks before it writes one to the log: a member of an older release
// could not read it there, and its Raft would stop. Apply asks again.
func (s *State) Permit(c Command) error { return s.permit(c, featureOf) }

func (s *State) permit(c Command, of levels) error {
	var fields slot.FeatureLevel
	if f, ok := c.(fielded); ok {
		fields = f.needs()
	}
	return s.permitKind(c.kind(), fields, of)
}

// permitKind refuses a kind of entry, whose fields may need more than the kind does.
func (s *State) permitKind(kind string, fields slot.FeatureLevel, of levels) error {
	need, listed := of(kind)
	need = max(need, fields)
	what := fmt.Sprintf("command %q", kind)
	switch {
	case !listed:
		return ErrInvalid{what, "no feature level is known for it"}
	case need > s.Features():
		return ErrInvalid{what, fmt.Sprintf("it needs feature level %d, the cluster has %d; when all nodes are upgraded: mailnode cluster upgrade", need, s.Features())}
	}
	return nil
}

// RaiseFeatureLevel lets kinds of commands and records be written that members
// of older releases do not understand. It is refused until every member has said
// that it does; one that is silent counts by what it said last. There is no way
// back.
type RaiseFeatureLevel struct {
	From     slot.FeatureLevel `json:"from"` // the one expected before
	To       slot.FeatureLevel `json:"to"`
	By       string            `json:"by,omitempty"`
	WallTime string            `json:"wall,omitempty"`
}

func (RaiseFeatureLevel) kind() string { return "raise-features" }

func (c RaiseFeatureLevel) apply(s *State, _ uint64) (Result, error) {
	what := fmt.Sprintf("raise the feature level to %d", c.To)
	if c.From != s.Features() {
		return Result{}, ErrStale{"feature level of the cluster", uint64(c.From), uint64(s.Features())}
	}
	if c.To <= c.From {
		return Result{}, ErrInvalid{what, fmt.Sprintf("it is %d already, and never falls", c.From)}
	}
	if old := s.TooOld(c.To); len(old) > 0 {
		return Result{}, ErrInvalid{what, shown("too old: "+strings.Join(old, ", ")) + "; upgrade and start every node first: mailnode cluster members"}
	}
	s.FeatureLevel = c.To
	s.record(Change{Kind: ChangeFeatures, By: shown(c.By), Why: fmt.Sprintf("feature level %d instead of %d", c.To, c.From), WallTime: shown(c.WallTime)})
	return Result{}, nil
}

// TooOld names the members that do not understand a feature level, each with its
// own and its release.
func (s *State) TooOld(level slot.FeatureLevel) []string {
	var old []string
	for _, m := range s.Members {
		if m.Knows() >= level {
			continue
		}
		text := fmt.Sprintf("%s (level %d", m.Name, m.Knows())
		if m.Release != "" {
			text += ", release " + m.Release
		}
		old = append(old, text+")")
	}
	return old
}

// mayKnow refuses a member that is too old for the cluster as it is: it could not
// read what the others write.
func (s *State) mayKnow(m Member) error {
	if m.Knows() < s.Features() {
		return ErrInvalid{"member " + shown(string(m.Name)), fmt.Sprintf("its release knows feature level %d, the cluster has %d: upgrade it", m.Knows(), s.Features())}
	}
	return nil
}
