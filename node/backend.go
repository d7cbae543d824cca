package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mailnode/failover"
	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// serveAdmin serves operators on the unix socket.
func (n *Node) serveAdmin(ctx context.Context) error {
	ln, err := admin.Listen(n.cfg.Node.Socket)
	if err != nil {
		return err
	}
	s := admin.NewServer(admin.Backend{Health: health{n}, Failovers: failovers{n}, Users: userBook{n}, Slots: slotBook{n}, Cluster: members{n}, Jobs: n.jobs, Mending: mending{n}, Reindexing: reindexer{n}, Rescuing: rescuing{n}, Copying: copying{n}, Moving: moving{n}},
		n.cfg.Node.Name, n.version, n.log.With("part", "admin"))
	n.wg.Go(func() { n.logErr("serve admin", s.Serve(ln)) })
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n.logErr("stop admin", s.Shutdown(ctx))
	})
	return nil
}

// view is the evidence as people see it.
func (n *Node) view() failover.View {
	v := n.evidence.Snapshot(n.clock.Mono())
	v.Wall = n.clock.Wall()
	return v
}

// health implements admin.Health.
type health struct{ n *Node }

// Status implements admin.Health.
func (h health) Status(ctx context.Context) (admin.Status, error) {
	n := h.n
	st, v := n.State(), n.view()
	leader := n.leader()
	s := admin.Status{Node: n.cfg.Node.Name, State: "serving", Version: n.version, Cluster: n.id.ClusterID(), Generation: n.id.Generation(),
		Leader: leader, Nodes: n.nodes(st, v), Slots: []admin.SlotStatus{}, Proposals: []admin.Proposal{}, Jobs: n.jobs.List(false), Recorded: n.recorded()}
	if n.stopping.Load() {
		s.State = "stopping"
	}
	for _, sl := range st.Slots {
		s.Slots = append(s.Slots, n.slotStatus(sl, v))
	}
	s.Proposals = n.openProposals(ctx, st, v)
	n.look() // what was just confirmed must not be shown as open
	s.Conditions = n.conditions.List()
	return s, nil
}

// openProposals asks the living nodes again, but not for long: status must not
// wait. Without their answers a proposal is shown as Raft has it.
func (n *Node) openProposals(ctx context.Context, st *cluster.State, v failover.View) []admin.Proposal {
	ctx, cancel := context.WithTimeout(ctx, statusAskWithin)
	defer cancel()
	out := []admin.Proposal{}
	plans, err := failover.List(ctx, st, v, n.cfg.Replication.SuspectAfter, n)
	if err == nil {
		for _, p := range plans.Proposals {
			out = append(out, planned(st, p))
		}
	} else {
		for _, p := range st.OpenProposals() {
			out = append(out, recorded(p, v))
		}
	}
	// Meanwhile somebody may have confirmed one.
	now := n.State()
	return slices.DeleteFunc(out, func(p admin.Proposal) bool {
		is, ok := now.Proposal(p.ID)
		return !ok || is.State != cluster.Open
	})
}

const (
	statusAskWithin = 700 * time.Millisecond
	showAskWithin   = 3 * time.Second // per copy
)

func (n *Node) leader() slot.NodeName {
	name, _, _ := n.raft.Leader()
	return name
}

// nodes shows the members by what is heard of them.
func (n *Node) nodes(st *cluster.State, v failover.View) []admin.NodeStatus {
	out := []admin.NodeStatus{}
	for _, m := range st.Members {
		ns := admin.NodeStatus{Name: m.Name, State: "up", Voter: m.Role != cluster.Nonvoter, Witness: m.Role == cluster.Witness,
			Standby: m.Standby, Zone: m.Zone, Address: m.Addr, Features: m.Knows(), Release: m.Release}
		silence := v.Silence(m.Name)
		switch nv := v.Nodes[m.Name]; {
		case m.Name == n.cfg.Node.Name:
			if n.stopping.Load() {
				ns.State = "stopping"
			}
		case !nv.Known && st.Absent(m.Name):
			ns.State, ns.Voter = "joined", false
		case nv.LastWords == failover.Stopping && silence < lateAfter:
			ns.State = "stopping"
		case nv.LastWords == failover.CleanStop:
			ns.State = "stopped"
		case silence >= lateAfter && (nv.Known || silence >= n.cfg.Replication.SuspectAfter):
			ns.State = "silent"
		case !nv.Known:
			ns.State = "unknown"
		}
		if m.Name != n.cfg.Node.Name && ns.State != "up" {
			ns.SilentS = int64(silence / time.Second)
		}
		out = append(out, ns)
	}
	return out
}

func stateOf(r failover.CopyReport) string {
	switch {
	case r.Failed != "":
		return "failed"
	case r.Opening != "":
		return "opening"
	case r.Hangs != "":
		return "hangs"
	case r.Building:
		return "building"
	case r.Diverged:
		return "diverged"
	case r.Quarantined:
		return "quarantined"
	case r.Role == failover.RoleMaster && r.Serving:
		return "master"
	case r.Role == failover.RoleMaster:
		return "waiting"
	}
	return "following"
}

// recorded shows a proposal as Raft has it, without asking anybody.
func recorded(p cluster.Proposal, v failover.View) admin.Proposal {
	out := admin.Proposal{ID: p.ID, Node: p.Node, State: string(p.State), Reason: p.Reason, Slots: []admin.ProposedSlot{}}
	if p.Node != "" && p.State == cluster.Open {
		out.SinceS = int64(v.Silence(p.Node) / time.Second)
	}
	for _, ps := range p.Slots {
		out.Slots = append(out.Slots, admin.ProposedSlot{Slot: ps.Slot, From: ps.From, To: ps.To, Done: ps.Done, Why: ps.Note})
	}
	return out
}

// userBook implements admin.UserBook: each call runs at the slot's master.
type userBook struct{ n *Node }

func (u userBook) call(ctx context.Context, a slot.Address, c *rpc.AccountCall) (cluster.Slot, *rpc.AccountReply, error) {
	sl, err := u.n.home(a)
	if err != nil {
		return sl, nil, err
	}
	c.Address = string(a)
	r, err := u.n.account(ctx, sl.ID, c)
	return sl, r, u.n.unknownOr(err, sl.ID)
}

// change is call for an order that is only done or not.
func (u userBook) change(ctx context.Context, a slot.Address, c *rpc.AccountCall) error {
	_, _, err := u.call(ctx, a, c)
	return err
}

// one is call for an order that answers with one account.
func (u userBook) one(ctx context.Context, a slot.Address, c *rpc.AccountCall) (admin.User, error) {
	sl, r, err := u.call(ctx, a, c)
	if err == nil && len(r.Accounts) != 1 {
		err = fmt.Errorf("slot %s: %d accounts for %q", sl.ID, len(r.Accounts), a)
	}
	if err != nil {
		return admin.User{}, err
	}
	return showUser(r.Accounts[0], sl), nil
}

// all asks every master for accounts, by their addresses.
func (u userBook) all(ctx context.Context, c *rpc.AccountCall) admin.Users {
	out := admin.Users{Users: []admin.User{}}
	left := everySlot(ctx, u.n, u.n.State().Slots, c, func(sl cluster.Slot, r *rpc.AccountReply) {
		for _, a := range r.Accounts {
			out.Users = append(out.Users, showUser(a, sl))
		}
	})
	out.Unknown, out.Silent = left.slots, left.silent
	slices.SortFunc(out.Users, func(a, b admin.User) int { return strings.Compare(string(a.Address), string(b.Address)) })
	return out
}

func showUser(a *rpc.Account, sl cluster.Slot) admin.User {
	return admin.User{Address: slot.Address(a.Address), Slot: sl.ID, QuotaBytes: a.QuotaBytes, UsedBytes: a.UsedBytes, Disabled: a.Disabled, Master: sl.Master,
		Messages: a.Messages, UndeleteS: a.UndeleteMs / 1000, Deleted: a.Deleted, DeletedAgoS: a.DeletedAgoMs / 1000, LeftS: a.LeftMs / 1000}
}

// Add implements admin.UserBook.
func (u userBook) Add(ctx context.Context, r admin.AddUser) (admin.User, error) {
	return u.one(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_Add{Add: &rpc.NewAccount{Password: []byte(r.Password), QuotaBytes: r.QuotaBytes}}})
}

// SetPassword implements admin.UserBook.
func (u userBook) SetPassword(ctx context.Context, r admin.SetPassword) error {
	return u.change(ctx, r.Address, &rpc.AccountCall{Call: &rpc.AccountCall_SetPassword{SetPassword: []byte(r.Password)}})
}

// List implements admin.UserBook.
func (u userBook) List(ctx context.Context) (admin.Users, error) {
	return u.all(ctx, &rpc.AccountCall{Call: &rpc.AccountCall_List{List: &rpc.Empty{}}}), nil
}

// slotBook implements admin.SlotBook.
type slotBook struct{ n *Node }

// List implements admin.SlotBook.
func (b slotBook) List(context.Context) ([]admin.SlotStatus, error) {
	v := b.n.view()
	out := []admin.SlotStatus{}
	for _, sl := range b.n.State().Slots {
		out = append(out, b.n.slotStatus(sl, v))
	}
	return out, nil
}

// Show implements admin.SlotBook.
func (b slotBook) Show(ctx context.Context, id slot.ID) (admin.SlotDetail, error) {
	st := b.n.State()
	sl, ok := st.Slot(id)
	if !ok {
		return admin.SlotDetail{}, cluster.ErrNotFound{Kind: "slot", Name: id.String()}
	}
	d := admin.SlotDetail{SlotStatus: b.n.slotStatus(sl, b.n.view()), Replicas: append([]slot.NodeName{}, sl.Replicas...),
		InSync: append([]slot.NodeName{}, sl.InSync...), Unclean: int(sl.Unclean), UnprotectedSince: sl.UnprotectedSince, History: []admin.SlotChange{}, Conditions: []monitor.Condition{}}
	d.Dropped = b.n.droppedCopies(sl)
	if l := sl.OpenLoss; l != nil {
		d.OpenLoss = fmt.Sprintf("epoch %d began without the tail of %s", l.Since, l.Node)
	}
	for i, a := range b.n.askCopies(ctx, d.Copies, failover.Question{Slot: id, Epoch: sl.Epoch, Digest: true}) {
		d.Copies[i].SelfCheck = a.SelfCheck
		d.Copies[i].Digest, d.Copies[i].DigestAt = a.Digest, a.DigestAt
		if a.UsersKnown && !d.UsersKnown {
			d.Users, d.UsersKnown = a.Users, true
		}
	}
	if p, open := st.OpenProposalOf(id); open {
		d.Proposal = p.ID
	}
	for _, c := range b.n.conditions.List() {
		if c.About == id.String() {
			d.Conditions = append(d.Conditions, c)
		}
	}
	for _, c := range st.History {
		if c.Slot == id && c.Kind != cluster.ChangeGeneration && c.Kind != cluster.ChangeFeatures {
			d.History = append(d.History, admin.SlotChange{Epoch: c.Epoch, From: c.From, To: c.To, By: c.By, Why: c.Why, When: c.WallTime, Unclean: c.Unclean})
		}
	}
	return d, nil
}

// askCopies asks the nodes of all copies of a slot at once; one that does not
// answer leaves its place empty.
func (n *Node) askCopies(ctx context.Context, copies []admin.CopyStatus, q failover.Question) []failover.CopyAnswer {
	ctx, cancel := context.WithTimeout(ctx, showAskWithin)
	defer cancel()
	out := make([]failover.CopyAnswer, len(copies))
	var wg sync.WaitGroup
	for i, c := range copies {
		wg.Go(func() {
			if got, err := n.Ask(ctx, c.Node, []failover.Question{q}); err == nil && len(got.Copies) == 1 {
				out[i] = got.Copies[0]
			}
		})
	}
	wg.Wait()
	return out
}

// Dismiss implements admin.SlotBook.
func (b slotBook) Dismiss(ctx context.Context, r admin.DismissLoss) error {
	sl, ok := b.n.State().Slot(r.Slot)
	if !ok {
		return cluster.ErrNotFound{Kind: "slot", Name: r.Slot.String()}
	}
	if sl.OpenLoss == nil {
		return &admin.Error{Text: fmt.Sprintf("slot %s has no open loss", r.Slot), Exit: admin.ExitNothing, Next: "mailnode slot show " + r.Slot.String()}
	}
	return b.n.order(ctx, cluster.ResolveLoss{Slot: r.Slot, Epoch: sl.Epoch, By: r.By, Why: r.Why, WallTime: b.n.wallTime()})
}

// members implements admin.Cluster.
type members struct{ n *Node }

// Members implements admin.Cluster.
func (m members) Members(context.Context) (admin.Members, error) {
	return admin.Members{Cluster: m.n.id.ClusterID(), Generation: m.n.id.Generation(), Leader: m.n.leader(),
		FeatureLevel: m.n.State().Features(), KnownFeatures: m.n.features, Members: m.n.nodes(m.n.State(), m.n.view())}, nil
}

// Token implements admin.Cluster.
func (m members) Token(ctx context.Context, r admin.TokenRequest) (admin.Token, error) {
	return m.n.token(ctx, r)
}
