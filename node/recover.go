package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// The recovery of a lost majority (LAWS §6.12), on one of its survivors. What makes it
// safe is the generation: it is durable here, and connections of the earlier one are
// cut, before Raft's log says anything that the lost majority has not decided. A
// crash in between leaves a node that talks to nobody and says so; the same command
// goes on.

// recovering implements admin.Recovering.
type recovering struct{ n *Node }

// Recovery implements admin.Recovering.
func (r recovering) Recovery(_ context.Context, with []slot.NodeName) (admin.Recovery, error) {
	n := r.n
	if err := n.mayRecover(); err != nil {
		return admin.Recovery{}, err
	}
	return recoveryOf(n.recoverySite(with))
}

// mayRecover refuses where this node is not one to recover on.
func (n *Node) mayRecover() error {
	refuse := func(next, format string, args ...any) error {
		return &admin.Error{Text: "recover: nothing was done: " + fmt.Sprintf(format, args...), Exit: admin.ExitRefused, Next: next}
	}
	switch err := n.raft.Err(); {
	case n.gone.Load() != nil: // the cluster that lives would be left behind
		return refuse("systemctl stop mailnode", "%s", *n.gone.Load())
	case n.isLeftBehind():
		return refuse("mailnode cluster members, on a node that went on", "%s", n.leftBehindText())
	case err != nil:
		return refuse("systemctl restart mailnode", "%v; then type this again", err)
	case n.State().ClusterID == "":
		return refuse("mailnode cluster recover, on another survivor", "this node has lost what it knew of the cluster")
	case n.raft.Quorum():
		return &admin.Error{Text: fmt.Sprintf("recover: nothing to do: the cluster has a leader, %s", n.leader()), Exit: admin.ExitNothing, Next: "mailnode cluster members"}
	}
	return nil
}

// recoverySite is all that the decision about a recovery rests on.
type recoverySite struct {
	st           *cluster.State
	v            failover.View
	own          failover.RaftReport
	voters       []slot.NodeName // in Raft's configuration, as this node has it
	abstains     bool            // this node
	with         []slot.NodeName // whom the person names
	generation   slot.Generation // as nodes call it
	suspectAfter time.Duration
}

func (n *Node) recoverySite(with []slot.NodeName) recoverySite {
	s := recoverySite{st: n.State(), v: n.evidence.Snapshot(n.clock.Mono()), own: n.raftReport(), abstains: n.raft.Abstains(), with: append(n.begunWith(), with...),
		generation: peerGeneration(n.State()), suspectAfter: n.cfg.Replication.SuspectAfter}
	servers, err := n.raft.Servers()
	n.logErr("read raft's configuration", err)
	for _, sv := range servers {
		if sv.Voter {
			s.voters = append(s.voters, sv.Name)
		}
	}
	return s
}

// heard reports whether a node reports to this one, and has not said that it stops.
func (s recoverySite) heard(name slot.NodeName) bool {
	nv := s.v.Nodes[name]
	return name == s.v.Self || nv.Known && nv.LastWords == "" && s.v.Now-nv.HeardAt < lateAfter
}

// recoveryOf says what a recovery would do, or refuses it. It is pure.
func recoveryOf(s recoverySite) (admin.Recovery, error) {
	refuse := func(exit int, next, format string, args ...any) (admin.Recovery, error) {
		return admin.Recovery{}, &admin.Error{Text: "recover: nothing was done: " + fmt.Sprintf(format, args...), Exit: exit, Next: next}
	}
	out := admin.Recovery{Cluster: s.st.ClusterID, Node: s.v.Self, Generation: s.generation, RaftIndex: max(s.own.LogEnd.Index, s.own.Applied)}
	for _, name := range s.with {
		if _, ok := s.st.Member(name); !ok {
			return refuse(admin.ExitUsage, "mailnode cluster members", "there is no node %q; there are: %s", name, namesOf(s.st.Members))
		}
	}
	for _, m := range s.st.Members {
		silent := s.v.Silence(m.Name)
		switch heard := s.heard(m.Name); {
		case !s.st.Belongs(m.Name): // an earlier recovery has left it behind
		case (heard || slices.Contains(s.with, m.Name)) && m.Knows() < cluster.RecoveryFeatures:
			return refuse(admin.ExitRefused, "mailnode cluster members", "the release of %s is too old to be recovered with: upgrade and start it first", m.Name)
		case heard && s.v.Nodes[m.Name].Raft.Knows(s.own) > 0:
			return refuse(admin.ExitRefused, fmt.Sprintf("mailnode cluster recover, on %s", m.Name), "%s knows more of the cluster than this node: recover there", m.Name)
		case heard:
			out.Survivors = append(out.Survivors, m.Name)
		case slices.Contains(s.with, m.Name):
			out.Survivors, out.Unknown = append(out.Survivors, m.Name), append(out.Unknown, m.Name)
		case silent < s.suspectAfter:
			return refuse(admin.ExitRefused, "mailnode cluster recover, again", "this node has not listened for %s for long enough: wait %s", m.Name, figures.Age(s.suspectAfter-silent+time.Second))
		default:
			out.Lost = append(out.Lost, admin.LostNode{Node: m.Name, SilentS: int64(silent / time.Second)})
		}
	}
	if votes := s.votesAmong(out.Survivors); votes > len(s.voters)/2 {
		return refuse(admin.ExitRefused, "mailnode cluster members", "%d of the %d voters are there, a majority: they make a leader by themselves", votes, len(s.voters))
	}
	for _, sl := range s.st.Slots {
		switch {
		case sl.Master == "":
		case slices.Contains(out.Survivors, sl.Master):
			out.Serve = append(out.Serve, sl.ID)
		case slices.ContainsFunc(sl.Replicas, func(n slot.NodeName) bool { return slices.Contains(out.Survivors, n) }):
			out.Propose = append(out.Propose, sl.ID)
		default:
			out.NoCopy = append(out.NoCopy, sl.ID)
		}
	}
	out.Text = recoveryText(out)
	return out, nil
}

// votesAmong counts the survivors that vote, or will when they are heard. Those that
// have lost Raft's files make no leader.
func (s recoverySite) votesAmong(survivors []slot.NodeName) int {
	votes := 0
	for _, n := range s.voters {
		abstains := s.v.Nodes[n].Abstains || n == s.v.Self && s.abstains
		if slices.Contains(survivors, n) && !abstains {
			votes++
		}
	}
	return votes
}

func namesOf(members []cluster.Member) string {
	var out []string
	for _, m := range members {
		out = append(out, string(m.Name))
	}
	return strings.Join(out, ", ")
}

// recoveryText is what a person reads before he decides.
func recoveryText(r admin.Recovery) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("RECOVER cluster %s on %s", r.Cluster, r.Node)
	var lost []string
	for _, l := range r.Lost {
		lost = append(lost, string(l.Node))
		line("lost for good: %s, silent for %s", l.Node, figures.Age(time.Duration(l.SilentS)*time.Second))
	}
	line("goes on: %s", joinedNames(r.Survivors))
	line("  with what %s knows, up to Raft's entry %d", r.Node, r.RaftIndex)
	for _, n := range r.Unknown {
		line("  %s is not heard: if it knows more, it is left behind too", n)
	}
	if len(r.Serve) > 0 {
		line("%s served on, after a pause of some seconds", figures.Count(len(r.Serve), "slot"))
	}
	if len(r.Propose) > 0 {
		line("%s lost the master: proposed, and you confirm", figures.Count(len(r.Propose), "slot"))
	}
	if len(r.NoCopy) > 0 {
		line("%s: NO copy is left (%s)", figures.Count(len(r.NoCopy), "slot"), slotList(r.NoCopy))
	}
	gone := strings.Join(lost, ", ")
	line("this cannot be taken back. If %s live and are only cut off, they go on taking mail until they hear of it; then they serve nothing, and what they took alone is kept on their disks until their machines join again", gone)
	return b.String()
}

// slotList names slots, the first few of many.
func slotList(ids []slot.ID) string {
	const named = 8
	var out []string
	for _, id := range ids[:min(len(ids), named)] {
		out = append(out, id.String())
	}
	if len(ids) > named {
		out = append(out, "...")
	}
	return strings.Join(out, " ")
}

func joinedNames(names []slot.NodeName) string {
	var out []string
	for _, n := range names {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}

// Recover implements admin.Recovering.
func (r recovering) Recover(ctx context.Context, q admin.RecoverRequest) (admin.Recovered, error) {
	n := r.n
	if !n.recovering.CompareAndSwap(false, true) {
		return admin.Recovered{}, &admin.Error{Text: "recover: it is under way on this node", Exit: admin.ExitRefused, Next: "mailnode cluster members"}
	}
	defer n.recovering.Store(false)
	plan, err := r.Recovery(ctx, q.With)
	if err != nil {
		return admin.Recovered{}, err
	}
	if q.Generation != plan.Generation {
		return admin.Recovered{}, &admin.Error{Text: fmt.Sprintf("recover: nothing was done: the cluster is of generation %d, you have seen %d", plan.Generation, q.Generation), Exit: admin.ExitRefused, Next: "mailnode cluster recover"}
	}
	if err := n.aloneRecovers(ctx, plan.Survivors); err != nil {
		return admin.Recovered{}, err
	}
	next := plan.Generation + 1
	n.log.Warn("the cluster is recovered on this node", "by", q.By, "generation", next, "with", plan.Survivors, "without", plan.Lost)
	if err := n.beginRecovery(begunRecovery{Generation: next, With: plan.Survivors}); err != nil {
		return admin.Recovered{}, fmt.Errorf("recover: %w", err)
	}
	raise := cluster.RaiseGeneration{Generation: n.State().Generation, With: plan.Survivors, By: q.By, Why: "recovered on " + string(plan.Node), WallTime: n.wallTime()}
	if err := n.raft.Recover(ctx, raise); err != nil {
		return admin.Recovered{}, &admin.Error{Text: fmt.Sprintf("recover: it has begun and is not done: %v", err), Exit: admin.ExitFailed, Next: "mailnode cluster recover"}
	}
	idle := n.awaitServe(ctx, plan.Serve)
	return admin.Recovered{Generation: next, Text: recoveredText(plan, idle)}, nil
}

// aloneRecovers makes sure that no other survivor is being recovered at this moment:
// each says so before it begins, and whoever hears it of another does not.
func (n *Node) aloneRecovers(ctx context.Context, survivors []slot.NodeName) error {
	n.report(ctx, n.reportSeq(), n.words())
	v := n.evidence.Snapshot(n.clock.Mono())
	for _, name := range survivors {
		if name != n.cfg.Node.Name && n.heardNow(name, v) && v.Nodes[name].Raft.Recovers {
			return &admin.Error{Text: fmt.Sprintf("recover: nothing was done: the cluster is being recovered on %s", name), Exit: admin.ExitRefused, Next: "mailnode cluster members"}
		}
	}
	return nil
}

// serveWithin is how long a recovery waits until the slots of its node serve again.
const serveWithin = 10 * time.Second

// awaitServe returns those of some slots of this node that do not serve in time.
func (n *Node) awaitServe(ctx context.Context, ids []slot.ID) []slot.ID {
	ctx, cancel := context.WithTimeout(ctx, serveWithin)
	defer cancel()
	poll := time.NewTicker(proposePause)
	defer poll.Stop()
	for {
		left := slices.DeleteFunc(slices.Clone(ids), func(id slot.ID) bool {
			sl, _ := n.State().Slot(id)
			m := n.copies.serving(id)
			return sl.Master != n.cfg.Node.Name || m != nil && m.Epoch() == sl.Epoch
		})
		if len(left) == 0 {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return left
		}
	}
}

// recoveredText is what a person reads at the end: the next command comes last.
func recoveredText(plan admin.Recovery, idle []slot.ID) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("recovered: generation %d, %s goes on", plan.Generation+1, joinedNames(plan.Survivors))
	if len(idle) > 0 {
		line("%s of this node do not serve yet: mailnode slot show %s", figures.Count(len(idle), "slot"), idle[0])
	}
	if len(plan.NoCopy) > 0 {
		line("no copy is left of %s; each is started empty on a node that you choose:", slotList(plan.NoCopy))
		line("  mailnode failover propose --slot %s --to %s --empty --accept-loss", plan.NoCopy[0], plan.Node)
	}
	if len(plan.Propose) > 0 {
		line("the slots of the lost nodes are proposed in a moment:")
		line("  mailnode failover list")
	}
	return b.String()
}

// recoveryName is the file in the data folder with the recovery that was begun last.
const recoveryName = "recovery.json"

// begunRecovery is its content: when the recovery was cut off, the same command goes on
// with the same survivors, which hear nothing of this node meanwhile.
type begunRecovery struct {
	Generation slot.Generation `json:"generation"` // that it makes, as nodes call it
	With       []slot.NodeName `json:"with"`
}

// beginRecovery makes a recovery durable, and takes its generation.
func (n *Node) beginRecovery(b begunRecovery) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := disk.ReplaceFile(filepath.Join(n.cfg.Node.Data, recoveryName), text); err != nil {
		return err
	}
	return n.id.SetGeneration(b.Generation)
}

// halfRecovered reports whether this node has a generation that its state has not: a
// recovery has begun and is not done.
func (n *Node) halfRecovered() bool {
	st := n.State()
	return st.ClusterID != "" && n.id.Generation() > peerGeneration(st)
}

// begunWith returns the survivors of a recovery that is not done.
func (n *Node) begunWith() []slot.NodeName {
	if !n.halfRecovered() {
		return nil
	}
	var b begunRecovery
	text, err := os.ReadFile(filepath.Join(n.cfg.Node.Data, recoveryName))
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil || b.Generation != n.id.Generation() {
		n.log.Warn("the survivors of the recovery that has begun are not known", "err", err)
		return nil
	}
	return slices.DeleteFunc(b.With, func(name slot.NodeName) bool { return name == n.cfg.Node.Name })
}
