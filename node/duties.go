package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

const (
	tickEvery    = 200 * time.Millisecond
	reportEvery  = time.Second
	decideEvery  = 500 * time.Millisecond
	dutyTimeout  = 3 * time.Second
	lagPageAfter = 5 * time.Minute
	// lagHeardWithin is how long a replica's lag is believed after its master's last
	// heartbeat.
	lagHeardWithin = 3 * time.Second
)

// every calls fn until ctx ends.
func every(ctx context.Context, d time.Duration, fn func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			fn()
		}
	}
}

// pause waits, and reports whether ctx lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// tick notices that this process was paused: then every slot that it serves asks
// again whether it is still its own.
func (n *Node) tick() {
	now := n.clock.Mono()
	paused := n.evidence.Tick(now)
	if !paused {
		n.lastTick.Store(int64(now))
		return
	}
	gap := now - time.Duration(n.lastTick.Load())
	n.log.Warn("this process was paused: its slots ask before they serve on", "for", gap.Round(time.Millisecond))
	n.endMasters()
	// Until then pauseGate acknowledges nothing.
	if later := n.clock.Mono(); later-now < pauseAfter { // else it was paused again meanwhile
		n.evidence.Paused(later)
		now = later
	}
	n.lastTick.Store(int64(now))
}

// report tells every other member what this node has.
func (n *Node) report(ctx context.Context, seq uint64, lastWords string) {
	r := failover.Report{Node: n.cfg.Node.Name, Boot: n.reporting.boot, Seq: seq, Heard: n.evidence.Heard(n.clock.Mono()), LastWords: lastWords, Asides: append(n.asides.open(), n.copies.keptAlone()...), Trouble: n.trouble(), Abstains: n.raft.Abstains(), WallUnix: n.clock.Wall().Unix(), RaftReport: n.raftReport(), FreeBytes: n.room.of(n.volumes.dataFolders())}
	for _, k := range n.copies.all() {
		r.Slots = append(r.Slots, k.report())
	}
	n.evidence.Hear(n.clock.Mono(), r)
	n.asides.hear(r)
	b, err := json.Marshal(r)
	if err != nil {
		n.log.Error("report", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reportEvery)
	defer cancel()
	sent := make(chan struct{})
	others := 0
	for _, m := range n.State().Members {
		if m.Name == n.cfg.Node.Name {
			continue
		}
		client, err := n.peers.node(m.Name)
		if err != nil {
			continue
		}
		others++
		go func() {
			defer func() { sent <- struct{}{} }()
			if reply, err := client.Report(ctx, &rpc.Json{Body: b}); err == nil {
				n.hearEnded(reply.Body)
			}
		}()
	}
	for range others {
		<-sent
	}
}

// trouble says why this node serves none of its slots, "" when it may.
func (n *Node) trouble() string {
	if n.raft.Err() == nil || n.State().ClusterID != "" {
		return ""
	}
	return "raft does not run on it, and it does not know what it has"
}

// endedEpoch tells a master whose epoch is over of the one that Raft has now. A
// node whose Raft has stopped hears of it in no other way.
type endedEpoch struct {
	Slot  slot.ID    `json:"slot"`
	Epoch slot.Epoch `json:"epoch"`
}

// ended lists what the sender of a report serves although Raft gave it away.
func (n *Node) ended(r failover.Report) []endedEpoch {
	var out []endedEpoch
	st := n.State()
	for _, c := range r.Slots {
		if sl, ok := st.Slot(c.Slot); ok && c.Role == failover.RoleMaster && c.Epoch < sl.Epoch {
			out = append(out, endedEpoch{Slot: c.Slot, Epoch: sl.Epoch})
		}
	}
	return out
}

// hearHigher stops what a reported copy proves to be over: its history has a higher
// epoch than the one that this node serves, whatever Raft says (LAWS §6.8).
func (n *Node) hearHigher(r failover.Report) {
	for _, c := range r.Slots {
		if k := n.copies.keeper(c.Slot); k != nil {
			k.fenced(c.Lineage)
		}
	}
}

// hearEnded stops what another node says is over (LAWS §6.8: whoever is
// told a higher epoch, by anyone, stops at once).
func (n *Node) hearEnded(body []byte) {
	if len(body) == 0 {
		return
	}
	var list []endedEpoch
	if err := json.Unmarshal(body, &list); err != nil {
		n.log.Warn("read answer to a report", "err", err)
		return
	}
	for _, e := range list {
		if k := n.copies.keeper(e.Slot); k != nil {
			k.fenced(e.Epoch)
		}
	}
}

// reports sends a report each second, and at once when a copy has taken a role;
// a slow one does not delay the next by more than its own second.
func (n *Node) reports(ctx context.Context) {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	for {
		n.report(ctx, n.reportSeq(), n.words())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-n.reporting.soon:
		}
	}
}

// tellSoon asks for a report at once.
func (n *Node) tellSoon() {
	select {
	case n.reporting.soon <- struct{}{}:
	default:
	}
}

// words is what a report says of this node's end.
func (n *Node) words() string {
	if n.stopping.Load() {
		return failover.Stopping
	}
	return ""
}

func (n *Node) reportSeq() uint64 { return n.reporting.seq.Add(1) }

// sayStopping tells the others that this node is being stopped on purpose: before
// it waits for anybody, so that they know also when it is killed meanwhile.
func (n *Node) sayStopping() { n.report(context.Background(), n.reportSeq(), failover.Stopping) }

// sayStopped is the last report: none that is under way is believed after it.
func (n *Node) sayStopped() { n.report(context.Background(), 1<<62, failover.CleanStop) }

// lead does what only Raft's leader does: first masters, votes for new members,
// and proposals of failovers, which change nothing.
func (n *Node) lead(ctx context.Context) {
	ready := false
	var sealed []failover.Sealed
	var stuck []failover.StuckMove
	turn := 0
	var aged time.Duration // Clock.Mono up to which join tokens have aged
	every(ctx, decideEvery, func() {
		n.evidence.Observe(n.clock.Mono(), n.State())
		if !n.raft.IsLeader() {
			ready, sealed, stuck = false, nil, nil
			return
		}
		dctx, cancel := context.WithTimeout(ctx, dutyTimeout)
		defer cancel()
		if !ready {
			if err := n.raft.Barrier(dctx); err != nil {
				return
			}
			ready, aged = true, n.clock.Mono()
			n.log.Info("this node leads")
		}
		n.assign(dctx)
		n.propose(dctx)
		sealed = n.giveUpHandOvers(dctx, sealed)
		stuck = n.moveCopies(dctx, stuck)
		if turn++; turn%placeTurns == 0 {
			n.placeNewNodes(dctx)
		}
		aged = n.ageTokens(dctx, aged)
	})
}

// propose opens, refreshes and withdraws proposals.
func (n *Node) propose(ctx context.Context) {
	v := n.evidence.Snapshot(n.clock.Mono())
	v.Wall = n.clock.Wall()
	for _, c := range failover.Decide(n.State(), v, n.cfg.Replication.SuspectAfter) {
		if _, err := n.Propose(ctx, c); err != nil {
			n.log.Warn("proposal", "command", fmt.Sprintf("%T", c), "err", err)
			return
		}
		n.log.Info("proposal", "command", fmt.Sprintf("%T", c), "what", fmt.Sprintf("%+v", c))
	}
}

func (n *Node) wallTime() string { return n.clock.Wall().UTC().Format(time.RFC3339) }

// watch keeps this node's conditions true.
func (n *Node) watch(ctx context.Context) { every(ctx, time.Second, n.look) }

// look sets and clears the conditions that follow from what this node knows now.
// It waits for nothing.
func (n *Node) look() {
	st := n.State()
	v := n.evidence.Snapshot(n.clock.Mono())
	for _, m := range st.Members {
		silent := v.Silence(m.Name)
		n.conditions.Put(m.Name != n.cfg.Node.Name && !st.Absent(m.Name) && silent >= n.cfg.Replication.SuspectAfter, monitor.NodeSilent, string(m.Name),
			fmt.Sprintf("silent for %s%s", figures.FineAge(silent), n.leftBehindNote(st, m.Name)))
	}
	for _, p := range st.Proposals {
		forgotten := time.Duration(0)
		if p.OpenedBy != failover.Watcher {
			forgotten = wishForgotten // whoever opened it knows of it
		}
		moves := p.OpenedBy == cluster.Mover
		n.conditions.Put(moves && p.State == cluster.Open, monitor.MovesWait, p.ID, p.Reason)
		n.conditions.Tell(!moves && p.State == cluster.Open, monitor.ProposalOpen, p.ID, monitor.Told{Detail: p.Reason, After: forgotten})
	}
	n.forget(st)
	for _, sl := range st.Slots {
		n.watchSlot(sl, v)
	}
	n.watchAsides(st)
	n.tellLeftBehind()
	led := n.raft.Quorum()
	if led {
		n.ledAt.Store(int64(n.clock.Mono()))
	}
	n.conditions.Put(!led && n.gone.Load() == nil, monitor.RaftNoQuorum, "", n.noQuorum(st, v))
	n.tellUnplaced(unplacedOf(st, v))
	n.lookAtClocks(st, v)
}

// watchSpace keeps the condition about one folder's file system, and its ballast.
// Each has a loop of its own, because one whose disk hangs does not answer.
func (n *Node) watchSpace(ctx context.Context, dir string) {
	space := n.resources.Disks.At(n.fs, dir, n.clock.Mono)
	every(ctx, time.Second, func() {
		free, err := space.Tend()
		if errors.Is(err, disk.ErrNoBallast) {
			n.log.Warn("a full disk will stop all changes at once, not growth alone", "folder", dir, "err", err)
		} else if err != nil {
			return
		}
		n.room.note(dir, free)
		n.conditions.Put(free < disk.ReserveBytes, monitor.DiskFull, dir, "")
		why := space.Trouble()
		n.conditions.Put(why != "", monitor.DiskStrained, dir, why)
	})
}

// forget clears conditions about what Raft no longer knows: closed proposals are
// kept for a while only, members leave, and so do copies.
func (n *Node) forget(st *cluster.State) {
	for _, c := range n.conditions.List() {
		known := true
		switch c.Name {
		case monitor.ProposalOpen, monitor.MovesWait:
			_, known = st.Proposal(c.About)
		case monitor.SlotNoMaster, monitor.OpenLoss, monitor.HandoverStuck, monitor.CopyDiverged, monitor.ReplicaLeaving, monitor.SlotMoving, monitor.MoveGivenUp, monitor.ReplicaMissing: // said by every node
		case monitor.NodeSilent, monitor.VersionsDiffer, monitor.ClockDiffers:
			_, known = st.Member(slot.NodeName(c.About))
		default:
			if id, err := slot.ParseID(c.About); err == nil {
				known = n.copies.keeper(id) != nil
			}
		}
		if !known {
			n.conditions.Clear(c.Name, c.About)
		}
	}
}

// watchSlot keeps the conditions about one slot: that nobody serves it on every
// node, the others on those that hold it.
func (n *Node) watchSlot(sl cluster.Slot, v failover.View) {
	about, suspectAfter := sl.ID.String(), n.cfg.Replication.SuspectAfter
	n.conditions.Put(sl.OpenLoss != nil, monitor.OpenLoss, about, "")
	n.watchMove(sl)
	stuck := monitor.Told{After: handOverStuck}
	if h := sl.HandOver; h != nil {
		stuck.Detail = fmt.Sprintf("%s is to hand over to %s by %s", sl.Master, h.To, h.Proposal)
	}
	n.conditions.Tell(sl.HandOver != nil, monitor.HandoverStuck, about, stuck)
	n.tellLeaving(sl, v)
	unserved, noMasterAfter := v.Unserved(sl, suspectAfter), time.Duration(0)
	k := n.copies.keeper(sl.ID)
	if k == nil {
		n.conditions.Put(unserved != "", monitor.SlotNoMaster, about, unserved)
		return
	}
	k.tellDropped()
	r := k.report()
	mine := sl.Master == n.cfg.Node.Name
	if mine && r.Waiting != "" {
		if unserved == "" { // it begins, as after each start
			noMasterAfter = suspectAfter
		}
		unserved = r.Waiting
	}
	n.conditions.Tell(unserved != "", monitor.SlotNoMaster, about, monitor.Told{Detail: unserved, After: noMasterAfter})
	n.conditions.Put(r.Opening != "" && time.Duration(r.OpeningMs)*time.Millisecond >= suspectAfter, monitor.SlotOpening, about, openingText(r))
	n.conditions.Put(r.Hangs != "", monitor.SlotHangs, about, r.Hangs)
	opened := k.opened()
	n.conditions.Put(opened != nil && opened.NoRoom() != nil, monitor.SlotNoRoom, about, "")
	n.conditions.Put(r.Building, monitor.CopyBuilding, about, "")
	n.conditions.Put(r.Quarantined, monitor.EventQuarantined, about, "")
	waits := n.cfg.Replication.Ack == config.AckReplica && len(sl.Replicas) > 0
	protected, why := sl.Protected, ""
	if r.Protected != nil {
		protected = *r.Protected // what the master does counts, whatever Raft has of it
		if !protected && sl.Protected {
			why = "Raft has it as protected: that it is not could not be recorded"
		}
	}
	n.conditions.Tell(mine && waits && !protected, monitor.SlotUnprotected, about, monitor.Told{Detail: why, After: n.catchUpTime(sl, v)})
	n.conditions.Put(mine && len(sl.Replicas) == 0, monitor.SlotNoReplicas, about, "")
	n.conditions.Put(len(sl.Replicas) > 0 && k.replicasLate(), monitor.ReplicaLagPage, about, "")
}

const (
	// wishForgotten is how long a person's proposal may be open before others are told.
	wishForgotten = 10 * time.Minute
	// handOverStuck is longer than a leader needs to give a hand-over up.
	handOverStuck = failover.GiveUpHandOver + 15*time.Second
)

// unprotectedAfter is how long a slot may be unprotected before somebody is woken
// while a replica that can be reached comes to the head: law 1 has it there for
// 10 s before it counts again.
const unprotectedAfter = 15 * time.Second

// catchUpTime is how long a slot may be unprotected before that is said.
func (n *Node) catchUpTime(sl cluster.Slot, v failover.View) time.Duration {
	for _, r := range sl.Replicas {
		if v.Silence(r) < n.cfg.Replication.SuspectAfter {
			return unprotectedAfter
		}
	}
	return 0
}

// openingText says how far a copy is that opens.
func openingText(r failover.CopyReport) string {
	text := "it " + r.Opening
	if r.OpeningPercent >= 0 {
		text += fmt.Sprintf(", %d%%", r.OpeningPercent)
	}
	return text + fmt.Sprintf(", for %s", (time.Duration(r.OpeningMs)*time.Millisecond).Round(time.Second))
}

// Serving implements failover.Serving.
func (n *Node) Serving(ctx context.Context, node slot.NodeName, id slot.ID, epoch slot.Epoch) (bool, error) {
	got, err := n.Ask(ctx, node, []failover.Question{{Slot: id, Epoch: epoch}})
	if err != nil || len(got.Copies) != 1 {
		return false, err
	}
	return got.Copies[0].Serving && got.Copies[0].Epoch >= epoch, nil
}
