package node

import (
	"context"
	"time"

	"mailnode/raftfsm/cluster"
)

const (
	// voteKeptFor is how long a silent voter keeps its vote while another member could
	// have it: a reboot is shorter.
	voteKeptFor = 5 * time.Minute
	// voteLagMax is how many entries of Raft's log a server may be behind that is to
	// have a vote; raftfsm waits for the rest before it gives one.
	voteLagMax = 1024
)

// votes gives members their place in Raft; it has a loop of its own, because it
// waits for nodes that may not be up.
func (n *Node) votes(ctx context.Context) {
	every(ctx, decideEvery, func() {
		if n.raft.IsLeader() {
			n.seatOne(ctx)
		}
	})
}

// seatOne does the next step of cluster.NextStep. It does not wait for long: the next
// look may know better.
func (n *Node) seatOne(ctx context.Context) {
	seats, err := n.seats()
	if err != nil || len(n.State().Members) == 0 {
		return
	}
	step, of := cluster.NextStep(seats)
	if step == cluster.NoStep {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dutyTimeout)
	defer cancel()
	addr := ""
	if m, ok := n.State().MemberByServerID(of.ServerID); ok {
		addr = m.Addr
	}
	switch step {
	case cluster.Expel:
		err = n.raft.RemoveServer(ctx, of.ServerID)
	case cluster.TakeIn:
		err = n.raft.AddNonvoter(ctx, of.ServerID, addr)
	case cluster.GiveIt:
		err = n.raft.AddVoter(ctx, of.ServerID, addr)
	case cluster.TakeIt:
		err = n.raft.DemoteVoter(ctx, of.ServerID)
	case cluster.HandOff:
		err = n.raft.TransferLeadership(ctx)
	}
	n.log.Info("raft's servers", "step", step, "member", of.Name, "server", of.ServerID, "err", err)
}

// seats are the members and Raft's servers, as this node knows them. Whether they are
// heard a leader knows by their answers, any other node by their reports.
func (n *Node) seats() ([]cluster.Seat, error) {
	servers, err := n.raft.Servers()
	if err != nil {
		return nil, err
	}
	st, v, leads := n.State(), n.evidence.Snapshot(n.clock.Mono()), n.raft.IsLeader()
	head := uint64(0)
	for _, s := range servers {
		head = max(head, s.Match)
	}
	var out []cluster.Seat
	seen := map[string]bool{}
	for _, s := range servers {
		seen[s.ServerID] = true
		seat := cluster.Seat{Name: s.Name, ServerID: s.ServerID, Server: true, Votes: s.Voter, Self: s.ServerID == n.raft.ServerID()}
		m, member := st.MemberByServerID(s.ServerID)
		if member {
			seat.Zone, seat.Role, seat.Standby = m.Zone, m.Role, m.Standby
		}
		seat.Alive = seat.Self || leads && s.Silent >= 0 && s.Silent < lateAfter || !leads && member && n.heardNow(m.Name, v)
		seat.Gone = member && !seat.Alive && v.Silence(m.Name) >= n.voteKeptFor
		seat.CaughtUp = seat.Alive && s.Match+voteLagMax >= head && !v.Nodes[s.Name].Abstains
		out = append(out, seat)
	}
	for _, m := range st.Members {
		if m.ServerID != "" && !seen[m.ServerID] {
			out = append(out, cluster.Seat{Name: m.Name, ServerID: m.ServerID, Zone: m.Zone, Role: m.Role, Standby: m.Standby})
		}
	}
	return out, nil
}

// voting returns who votes by Raft's configuration, by server ID; nil while that is
// not known: Raft does not run here, or its files were lost and it knows nobody.
func (n *Node) voting() map[string]bool {
	servers, err := n.raft.Servers()
	if err != nil || len(servers) == 0 {
		return nil
	}
	out := map[string]bool{}
	for _, s := range servers {
		out[s.ServerID] = s.Voter
	}
	return out
}

// votes reports whether a member votes, by what voting returned; else by its role.
func votes(m cluster.Member, voting map[string]bool) bool {
	return voting[m.ServerID] || voting == nil && m.Role != cluster.Nonvoter
}
