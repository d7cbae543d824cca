package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mailnode/node/admin"
	"mailnode/node/rpc"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// How long a node may take that is asked about what it has set aside.
const (
	asidesWithin    = 3 * time.Second
	asideShowWithin = 25 * time.Second // the state is read
)

// asideRowsPerPart keeps a part of an answer far below messageBytesMax: no row has
// more than a few kilobytes of names.
const asideRowsPerPart = 200

// rescuePart is a part of the answer: the end of a state's list comes with the
// state itself.
type rescuePart struct {
	Messages []admin.AsideMessage `json:"messages,omitempty"`
	State    *admin.Aside         `json:"state,omitempty"`
	Unknown  string               `json:"unknown,omitempty"`
}

// rescuing implements admin.Rescuing.
type rescuing struct{ n *Node }

// Asides implements admin.Rescuing.
func (r rescuing) Asides(ctx context.Context) (admin.Asides, error) {
	return r.n.askAsides(ctx, asidesWithin, &rpc.RescueCall{Call: &rpc.RescueCall_List{List: &rpc.Empty{}}}), nil
}

// ShowAside implements admin.Rescuing.
func (r rescuing) ShowAside(ctx context.Context, what string, messagesMax int) (admin.Asides, error) {
	return r.n.askAsides(ctx, asideShowWithin, &rpc.RescueCall{What: what, Call: &rpc.RescueCall_Show{Show: int64(messagesMax)}}), nil
}

// DismissAside implements admin.Rescuing.
func (r rescuing) DismissAside(ctx context.Context, q admin.DismissAside) (admin.Asides, error) {
	d := &rpc.Dismissal{By: q.By, Why: q.Why, Wall: r.n.wallTime()}
	return r.n.askAsides(ctx, asidesWithin, &rpc.RescueCall{What: q.What, Call: &rpc.RescueCall_Dismiss{Dismiss: d}}), nil
}

// askAsides asks all members at once. One that does not answer in time is named:
// what it has is not known.
func (n *Node) askAsides(ctx context.Context, within time.Duration, q *rpc.RescueCall) admin.Asides {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var out admin.Asides
	for _, m := range n.State().Members {
		wg.Go(func() {
			got, err := n.askAsidesOf(ctx, m.Name, q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Unknown = append(out.Unknown, fmt.Sprintf("what %s has set aside: %s", m.Name, err))
			}
			out.States = append(out.States, got.States...)
			out.Unknown = append(out.Unknown, got.Unknown...)
		})
	}
	wg.Wait()
	slices.SortFunc(out.States, func(a, b admin.Aside) int {
		return strings.Compare(fmt.Sprint(a.Slot, a.Node, a.Name), fmt.Sprint(b.Slot, b.Node, b.Name))
	})
	slices.Sort(out.Unknown)
	return out
}

// askAsidesOf asks one node, also this one. What came before an error is given too.
func (n *Node) askAsidesOf(ctx context.Context, name slot.NodeName, q *rpc.RescueCall) (out admin.Asides, err error) {
	var rows []admin.AsideMessage
	take := func(p rescuePart) error {
		rows = append(rows, p.Messages...)
		if p.Unknown != "" {
			out.Unknown = append(out.Unknown, p.Unknown)
		}
		if p.State != nil {
			p.State.List, rows = rows, nil
			out.States = append(out.States, *p.State)
		}
		return nil
	}
	if name == n.cfg.Node.Name {
		return out, n.rescue(ctx, q, take)
	}
	client, err := n.peers.node(name)
	if err != nil {
		return out, err
	}
	stream, err := client.Rescue(ctx, q)
	if err != nil {
		return out, err
	}
	for {
		got, err := stream.Recv()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		var p rescuePart
		if err := json.Unmarshal(got.Body, &p); err != nil {
			return out, fmt.Errorf("read answer of node %q: %w", name, err)
		}
		if err := take(p); err != nil {
			return out, err
		}
	}
}

// Rescue implements rpc.NodeServer.
func (s service) Rescue(q *rpc.RescueCall, stream grpc.ServerStreamingServer[rpc.Json]) error {
	return s.n.rescue(stream.Context(), q, func(p rescuePart) error {
		b, err := json.Marshal(p)
		if err != nil {
			return err
		}
		return stream.Send(&rpc.Json{Body: b})
	})
}

// rescue answers for this node's own copies.
func (n *Node) rescue(ctx context.Context, q *rpc.RescueCall, send func(rescuePart) error) error {
	for _, k := range n.copies.all() {
		s := k.opened()
		if s == nil {
			if q.What == "" || q.What == k.id.String() {
				if err := send(rescuePart{Unknown: fmt.Sprintf("%s on %s is not open", k.id, n.cfg.Node.Name)}); err != nil {
					return err
				}
			}
			continue
		}
		if a, kept := k.showDropped(q); kept {
			if err := send(rescuePart{State: &a}); err != nil {
				return err
			}
		}
		for _, o := range n.asides.of(k.id) {
			if q.What != "" && q.What != k.id.String() && q.What != o.Name {
				continue
			}
			if err := n.answerAside(ctx, q, k.id, s, o, send); err != nil {
				return err
			}
		}
	}
	return nil
}

// answerAside does what is asked with one state.
func (n *Node) answerAside(ctx context.Context, q *rpc.RescueCall, id slot.ID, s *local.Slot, o ownAside, send func(rescuePart) error) error {
	switch x := q.Call.(type) {
	case *rpc.RescueCall_List:
	case *rpc.RescueCall_Show:
		if err := n.listAside(ctx, int(x.Show), s, &o, send); err != nil {
			return err
		}
	case *rpc.RescueCall_Dismiss:
		if o.Seen != nil {
			return nil
		}
		seen := local.Seen{By: x.Dismiss.By, Why: x.Dismiss.Why, Wall: x.Dismiss.Wall}
		if err := s.DismissAside(o.Name, seen); err != nil {
			o.trouble = err.Error()
			break
		}
		o.Seen = &seen
		n.asides.look(id, s)
		n.log.Warn("what lies aside was dismissed by a person", "slot", id, "name", o.Name, "by", seen.By, "why", seen.Why)
	default:
		return status.Error(codes.Unimplemented, "rescue: this release does not know what is asked")
	}
	a := n.showAside(id, o)
	return send(rescuePart{State: &a})
}

// listAside reads a state now; what it has is counted whole, however few messages
// are wanted. That it cannot be read is part of the answer.
func (n *Node) listAside(ctx context.Context, messagesMax int, s *local.Slot, o *ownAside, send func(rescuePart) error) error {
	var rows []admin.AsideMessage
	sent := 0
	var failed error
	got, err := s.ReadAside(ctx, o.Name, func(m local.AsideMessage) error {
		if sent == messagesMax {
			return nil
		}
		rows, sent = append(rows, showAsideMessage(m)), sent+1
		if len(rows) == asideRowsPerPart {
			failed = send(rescuePart{Messages: rows})
			rows = nil
		}
		return failed
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		o.counted, o.trouble = nil, err.Error()
	} else {
		o.counted, o.trouble = &got, ""
	}
	if len(rows) == 0 {
		return nil
	}
	return send(rescuePart{Messages: rows})
}

func showAsideMessage(m local.AsideMessage) admin.AsideMessage {
	return admin.AsideMessage{Address: m.Address, Mailbox: m.Mailbox, UID: uint32(m.UID), Date: m.Date.Format(time.RFC3339), Bytes: m.Size,
		MessageID: m.MessageID, GUID: m.GUID.String(), Body: m.Body}
}

func (n *Node) showAside(id slot.ID, o ownAside) admin.Aside {
	a := admin.Aside{Node: n.cfg.Node.Name, Slot: id, Name: o.Name, Was: string(o.Role), Acknowledged: o.MayBeAcknowledged(), Head: o.Head, Alone: o.Alone, Trouble: o.trouble}
	if !o.Wall.IsZero() {
		a.Since = o.Wall.Format(time.RFC3339)
	}
	if c := o.counted; c != nil {
		a.Shared, a.Unread = &c.Shared, c.Unread
		a.Count = &admin.AsideCount{Messages: c.Messages, Users: c.Users, Folders: c.Folders, Bytes: c.Bytes, NoBody: c.NoBody, NewUsers: c.NewUsers, NewFolders: c.NewFolders,
			Changed: c.ChangedAll, ChangedUsers: c.Changed}
	}
	if o.Seen != nil {
		a.Dismissed = &admin.AsideSeen{By: o.Seen.By, Why: o.Seen.Why, When: o.Seen.Wall}
	}
	return a
}

// of returns the states of one slot that lie on this node.
func (a *asides) of(id slot.ID) []ownAside {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []ownAside
	for k, o := range a.own {
		if k.slot == id {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(x, y ownAside) int { return strings.Compare(x.Name, y.Name) })
	return out
}
