package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/failover"
	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/node/diary"
	"mailnode/node/monitor"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

const (
	diaryWithin = 3 * time.Second // for one node's answer
	// diaryAnswerMax keeps an answer below messageBytesMax: of more entries the newest.
	diaryAnswerMax = 6000
)

// diaryCall is what one node asks of another: its entries, or to take a note.
type diaryCall struct {
	SinceMs int64        `json:"since_ms,omitempty"`
	Note    *diary.Entry `json:"note,omitempty"`
}

// diaryAnswer is what it says.
type diaryAnswer struct {
	Entries    []diary.Told        `json:"entries,omitempty"`
	Conditions []monitor.Condition `json:"conditions,omitempty"`
	Again      bool                `json:"again,omitempty"` // the note was there
}

// Diary implements rpc.NodeServer.
func (s service) Diary(ctx context.Context, in *rpc.Json) (*rpc.Json, error) {
	var q diaryCall
	if err := json.Unmarshal(in.Body, &q); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "read question: %v", err)
	}
	a, err := s.n.tellDiary(ctx, q)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	b, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	return &rpc.Json{Body: b}, nil
}

// tellDiary answers for this node. A note is durable here when it is answered.
func (n *Node) tellDiary(ctx context.Context, q diaryCall) (diaryAnswer, error) {
	if q.Note != nil {
		if n.happenings.noted(*q.Note) {
			return diaryAnswer{Again: true}, nil
		}
		n.happenings.diary.Add(*q.Note)
		failed, err := heard(ctx, n, n.happenings.diary.Write)
		return diaryAnswer{}, cmp.Or(err, failed)
	}
	a := diaryAnswer{Entries: n.happenings.diary.Since(time.Duration(q.SinceMs) * time.Millisecond)}
	a.Entries = a.Entries[max(0, len(a.Entries)-diaryAnswerMax):]
	for _, c := range n.conditions.List() {
		if c.Severity != monitor.Info {
			a.Conditions = append(a.Conditions, c)
		}
	}
	return a, nil
}

// askDiaries asks all members at once, this node too, and hands each answer to got,
// one at a time.
func (n *Node) askDiaries(ctx context.Context, q diaryCall, got func(slot.NodeName, diaryAnswer, error)) {
	ctx, cancel := context.WithTimeout(ctx, diaryWithin)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	ask := func(name slot.NodeName) {
		a, err := n.askDiary(ctx, name, q)
		mu.Lock()
		defer mu.Unlock()
		got(name, a, err)
	}
	names := []slot.NodeName{n.cfg.Node.Name}
	for _, m := range n.State().Members {
		if m.Name != n.cfg.Node.Name {
			names = append(names, m.Name)
		}
	}
	for _, name := range names {
		wg.Go(func() { ask(name) })
	}
	wg.Wait()
}

func (n *Node) askDiary(ctx context.Context, name slot.NodeName, q diaryCall) (a diaryAnswer, err error) {
	if name == n.cfg.Node.Name {
		return n.tellDiary(ctx, q)
	}
	client, err := n.peers.node(name)
	if err != nil {
		return a, err
	}
	b, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	reply, err := client.Diary(ctx, &rpc.Json{Body: b})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return a, fmt.Errorf("its release keeps no diary")
	case err != nil:
		return a, err
	}
	return a, json.Unmarshal(reply.Body, &a)
}

// incidents implements admin.Incidents.
type incidents struct{ n *Node }

// Ordered implements admin.Incidents.
func (i incidents) Ordered(by, text string) {
	i.n.happenings.diary.Add(diary.Entry{Kind: diary.Order, At: i.n.cfg.Node.Name, By: by, Text: text})
}

// Note implements admin.Incidents. Every node that can be reached writes it down, so
// that the death of one does not take it along.
func (i incidents) Note(ctx context.Context, r admin.NoteRequest) (admin.Noted, error) {
	out := admin.Noted{Nodes: []slot.NodeName{}, Missing: map[slot.NodeName]string{}}
	again := 0
	i.n.askDiaries(ctx, diaryCall{Note: &diary.Entry{Kind: diary.Note, At: i.n.cfg.Node.Name, By: r.By, Text: r.Text}}, func(name slot.NodeName, a diaryAnswer, err error) {
		switch {
		case err != nil:
			out.Missing[name] = rpcText(err)
		case a.Again:
			again++
			fallthrough
		default:
			out.Nodes = append(out.Nodes, name)
		}
	})
	slices.Sort(out.Nodes)
	out.Again = again > 0 && again == len(out.Nodes)
	if len(out.Nodes) == 0 {
		return out, &admin.Error{Text: "note: no node could write it down: " + out.Missing[i.n.cfg.Node.Name], Exit: admin.ExitFailed, Next: "mailnode status"}
	}
	return out, nil
}

// rpcText is an error of another node in one line.
func rpcText(err error) string {
	if s, ok := status.FromError(err); ok {
		return strings.Join(strings.Fields(s.Message()), " ")
	}
	return err.Error()
}

// History implements admin.Incidents.
func (i incidents) History(ctx context.Context) (admin.History, error) {
	i.n.catchUp(ctx)
	out := admin.History{Recorded: i.n.recorded()}
	for _, c := range i.n.State().History {
		o := admin.OwnerChange{Kind: string(c.Kind), Epoch: c.Epoch, From: c.From, To: c.To, Proposal: c.Proposal, By: c.By, Why: c.Why, When: c.WallTime,
			Unclean: c.Unclean, AcceptedLoss: c.AcceptedLoss}
		if c.Kind != cluster.ChangeGeneration && c.Kind != cluster.ChangeFeatures {
			o.Slot = &c.Slot
		}
		out.Changes = append(out.Changes, o)
	}
	return out, nil
}

// Report implements admin.Incidents.
func (i incidents) Report(ctx context.Context, since time.Duration) (diary.Report, error) {
	n := i.n
	n.catchUp(ctx)
	st, v := n.State(), n.view()
	r := diary.Report{Cluster: n.id.ClusterID(), By: n.cfg.Node.Name, Wall: v.Wall, SinceMs: since.Milliseconds(),
		Diaries: map[slot.NodeName][]diary.Told{}, Unreached: map[slot.NodeName]string{}, Changes: ownerChanges(st, v.Wall, since)}
	var asides admin.Asides
	var wg sync.WaitGroup
	wg.Go(func() { asides, _ = rescuing{n}.Asides(ctx) })
	conditions := map[slot.NodeName][]monitor.Condition{}
	n.askDiaries(ctx, diaryCall{SinceMs: r.SinceMs}, func(name slot.NodeName, a diaryAnswer, err error) {
		if err != nil {
			r.Unreached[name] = rpcText(err)
			return
		}
		r.Diaries[name], conditions[name] = a.Entries, a.Conditions
	})
	wg.Wait()
	r.Aside = asideLines(asides)
	r.Open = n.standing(st, v)
	r.Open.Conditions = sameConditions(conditions)
	r.Complete()
	return r, nil
}

// ownerChanges lists what Raft remembers of changes of masters. How long ago they
// were is by wall clocks: it is shown, and decides what is shown.
func ownerChanges(st *cluster.State, wall time.Time, since time.Duration) []diary.Change {
	out := []diary.Change{}
	for _, c := range st.History {
		if c.Kind != cluster.ChangeConfirmed {
			continue
		}
		ago := time.Duration(0)
		if at, err := time.Parse(time.RFC3339, c.WallTime); err == nil {
			ago = max(0, wall.Sub(at))
		}
		if ago <= since {
			out = append(out, diary.Change{Slot: c.Slot, Epoch: c.Epoch, From: c.From, To: c.To, Proposal: c.Proposal, By: c.By, Why: c.Why,
				Unclean: c.Unclean, AcceptedLoss: c.AcceptedLoss, AgoMs: ago.Milliseconds()})
		}
	}
	return out
}

// asideLines tells what lies aside, and what could not be asked.
func asideLines(a admin.Asides) []string {
	out := []string{}
	for _, s := range a.States {
		line := fmt.Sprintf("%s on %s, %s: ", s.Slot, s.Node, s.Name)
		switch {
		case s.Count != nil:
			line += fmt.Sprintf("%s, %s", figures.Count(s.Count.Messages, "message"), figures.Count(s.Count.Users, "user"))
		case s.Trouble != "":
			line += s.Trouble
		default:
			line += "not counted yet"
		}
		if d := s.Dismissed; d != nil {
			line += ", dismissed by " + d.By
		} else if s.Acknowledged {
			line += fmt.Sprintf(", may be acknowledged: `mailnode rescue show %s`", s.Slot)
		}
		out = append(out, line)
	}
	return append(out, a.Unknown...)
}

// standing is what is open now, by what this node knows.
func (n *Node) standing(st *cluster.State, v failover.View) diary.Standing {
	s := diary.Standing{Proposals: []string{}, Losses: []slot.ID{}, Unprotected: []slot.ID{}, Away: map[slot.NodeName][]slot.ID{}}
	for _, p := range st.OpenProposals() {
		s.Proposals = append(s.Proposals, p.ID)
	}
	for _, sl := range st.Slots {
		if sl.OpenLoss != nil {
			s.Losses = append(s.Losses, sl.ID)
		}
		if known, _ := n.protection(sl, v); sl.Master != "" && (known == nil || !*known) {
			s.Unprotected = append(s.Unprotected, sl.ID)
		}
		if sl.Home != "" && sl.Master != sl.Home {
			s.Away[sl.Home] = append(s.Away[sl.Home], sl.ID)
		}
	}
	return s
}

// sameConditions lists what the nodes say, each condition once, the gravest first.
func sameConditions(said map[slot.NodeName][]monitor.Condition) []diary.Condition {
	var all []monitor.Condition
	for _, list := range said {
		all = append(all, list...)
	}
	monitor.Sort(all)
	out := []diary.Condition{}
	at := map[[2]string]int{}
	for _, c := range all {
		k := [2]string{string(c.Name), c.About}
		if _, known := at[k]; known {
			continue
		}
		at[k] = len(out)
		out = append(out, diary.Condition{Name: string(c.Name), About: c.About, Next: c.Next})
	}
	for _, name := range slices.Sorted(maps.Keys(said)) {
		for _, c := range said[name] {
			i := at[[2]string{string(c.Name), c.About}]
			out[i].Nodes = append(out[i].Nodes, name)
		}
	}
	return out
}
