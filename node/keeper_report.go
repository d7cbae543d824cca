package node

import (
	"errors"
	"slices"
	"time"

	"mailnode/failover"
	"mailnode/node/config"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// hangsAfter is how long a disk may take to answer before others are told.
const hangsAfter = 5 * time.Second

// report describes the copy for other nodes, as it and its role are at one moment.
// Neither it nor whoever else holds one of the two locks waits for a disk or a
// peer: all copies of the node are reported together (law 9).
func (k *keeper) report() failover.CopyReport {
	k.role.mu.Lock()
	defer k.role.mu.Unlock()
	k.open.mu.Lock()
	defer k.open.mu.Unlock()
	role, open := &k.role, &k.open
	r := failover.CopyReport{Slot: k.id, Role: role.kind, Epoch: role.epoch, Waiting: role.waiting, Serving: role.master != nil}
	if kept := k.dropped.told.Load(); kept != nil {
		r.Waiting = kept.why
	}
	if open.step != "" {
		r.Opening, r.OpeningPercent, r.OpeningMs = open.step, open.percent, (k.n.clock.Mono() - open.since).Milliseconds()
		return r
	}
	if open.refused != nil {
		r.Failed = open.refused.Error()
		return r
	}
	if open.copy == nil {
		return r
	}
	if what, since := open.copy.Hangs(); since >= min(hangsAfter, k.n.cfg.Replication.SuspectAfter) {
		r.Hangs, r.HangsMs = what, since.Milliseconds()
	}
	if err := open.copy.Failure(); err != nil {
		r.Failed = err.Error()
		return r
	}
	r.NoRoom = open.copy.NoRoom() != nil
	head, err := open.copy.Head()
	if err != nil {
		r.Failed = err.Error()
		return r
	}
	r.Position, r.Lineage, r.Building = head.Position, head.Lineage.Last(), head.Building
	if r.Building {
		r.Filling = k.fillText()
	}
	r.Counters = failover.Counters{Events: head.Position.N(), Messages: head.Births, Bytes: head.Bytes}
	r.Viable = !head.Building && head.Position > 0 && r.Failed == "" // an empty copy proves nothing
	r.Head, r.HeadCount = head.Position, r.Counters
	if n, counted := open.copy.UserCount(); counted && !head.Building {
		r.Accounts = &n
	}
	r.Away = open.copy.DiskTrouble()
	if why := k.index.told.Load(); why != nil && role.master != nil {
		r.Away = "its index is damaged: " + *why
	}
	if role.feed != nil {
		r.AloneSince, r.Alone = role.feed.Alone()
		protected, _ := role.feed.State()
		protected = protected && !r.Alone // the mark goes a moment later; a plan goes by it
		r.Protected, r.LagKnown = &protected, true
		r.AckLocal = k.n.cfg.Replication.Ack != config.AckReplica
	}
	if role.follower != nil {
		st := role.follower.State()
		r.InSync, r.LagMs = st.Counted, int64(st.LagMs)
		r.LagKnown = st.Connected && !head.Building && k.n.clock.Mono()-st.HeardAt < lagHeardWithin
		r.Quarantined = st.Connected && !st.Viable && !head.Building
		r.Viable = r.Viable && !r.Quarantined
		if st.Head > head.Position {
			r.Head = st.Head
			r.HeadCount = failover.Counters{Events: st.Head.N(), Messages: st.HeadBirths, Bytes: st.HeadBytes}
		}
	}
	return r
}

// replicasLate reports whether no replica is less than five minutes behind. One that
// was never heard since this node serves the slot lacks everything since then.
func (k *keeper) replicasLate() bool {
	feed, servedAt := k.role.feeds()
	if feed == nil {
		return false
	}
	_, replicas := feed.State()
	late := len(replicas) > 0 || k.n.clock.Mono()-servedAt >= lagPageAfter
	for _, r := range replicas {
		late = late && r.Lag >= lagPageAfter
	}
	return late
}

// selfCheck returns the lines of the check that a copy made when it was opened,
// also of one that was refused.
func (k *keeper) selfCheck() []string {
	s, why := k.open.state()
	var checks []local.Check
	var refused *local.Refused
	switch {
	case s != nil:
		checks = s.Checks()
		if err := s.Failure(); err != nil {
			checks = append(slices.Clone(checks), local.Check{Name: "now", State: local.CheckFailed,
				Text: err.Error() + ": mailnode slot serve " + k.id.String()})
		}
	case errors.As(why, &refused):
		checks = refused.Checks
	case why != nil:
		checks = []local.Check{{Name: "volume", State: local.CheckFailed, Text: why.Error()}}
	}
	var out []string
	for _, c := range checks {
		out = append(out, c.String())
	}
	return out
}

// differsIn says in what a copy differs at the same position.
func (k *keeper) differsIn(node slot.NodeName, c repl.Comparison) string {
	detail := "in accounts, addresses or subscriptions"
	if s := k.opened(); s != nil && len(c.Mailboxes) > 0 {
		account, name := s.MailboxName(c.Mailboxes[0])
		detail = "in " + string(account) + " " + name
		if len(c.Mailboxes) > 1 {
			detail += " and others"
		}
	}
	return string(node) + " differs " + detail
}
