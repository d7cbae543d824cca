package node

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"mailnode/node/monitor"
	"mailnode/storage/slot"
)

// hookState is what the command of [hooks] is told: who is master of what, and which
// nodes are there. docs/operating/hooks.md shows it.
type hookState struct {
	Node         slot.NodeName `json:"node"`          // on which the command runs
	TakesClients bool          `json:"takes_clients"` // that node; as /healthz
	Why          string        `json:"why,omitempty"` // why it takes none
	Masters      []slot.ID     `json:"masters"`       // the slots that it is master of
	Slots        []hookSlot    `json:"slots"`
	Nodes        []hookNode    `json:"nodes"`
}

type hookSlot struct {
	Slot   slot.ID       `json:"slot"`
	Master slot.NodeName `json:"master"` // "" while it never had one
	Epoch  slot.Epoch    `json:"epoch"`
}

type hookNode struct {
	Node  slot.NodeName `json:"node"`
	State string        `json:"state"` // as `mailnode status` has it
}

// hookChange is one difference between what the command was told last and what is so
// now: of a slot, or of a node.
type hookChange struct {
	Slot *slot.ID      `json:"slot,omitempty"`
	Node slot.NodeName `json:"node,omitempty"`
	From string        `json:"from"` // master, or state of the node; "" when there was none
	To   string        `json:"to"`   // "" of a node that is no member any more
}

// hookCall is one call: the state, and what is new in it. The first call of a process
// has no changes.
type hookCall struct {
	hookState
	First   bool         `json:"first"`
	Changes []hookChange `json:"changes"`
}

// changesSince lists how s differs from what was told before. That a node takes
// clients, or no longer, is a change of that node.
func (s hookState) changesSince(told hookState) []hookChange {
	out := []hookChange{}
	masters := map[slot.ID]hookSlot{}
	for _, sl := range told.Slots {
		masters[sl.Slot] = sl
	}
	for _, sl := range s.Slots {
		if was := masters[sl.Slot]; was.Master != sl.Master || was.Epoch != sl.Epoch {
			out = append(out, hookChange{Slot: &sl.Slot, From: string(was.Master), To: string(sl.Master)})
		}
	}
	states := map[slot.NodeName]string{}
	for _, m := range told.Nodes {
		states[m.Node] = m.State
	}
	for _, m := range s.Nodes {
		if was := states[m.Node]; was != m.State {
			out = append(out, hookChange{Node: m.Node, From: was, To: m.State})
		}
		delete(states, m.Node)
	}
	for _, gone := range slices.Sorted(maps.Keys(states)) {
		out = append(out, hookChange{Node: gone, From: states[gone]})
	}
	if s.TakesClients != told.TakesClients {
		clients := map[bool]string{true: "takes clients", false: "takes no clients"}
		out = append(out, hookChange{Node: s.Node, From: clients[told.TakesClients], To: clients[s.TakesClients]})
	}
	return out
}

// hookState says how things are. A node that was not heard yet, or is late, is as it
// was told before: only a silence of suspect_after is one.
func (n *Node) hookState(told hookState) (now hookState, settled bool) {
	st, v := n.State(), n.evidence.Snapshot(n.clock.Mono())
	why := n.takesNone()
	now = hookState{Node: n.cfg.Node.Name, TakesClients: why == "", Why: why, Masters: []slot.ID{}, Slots: []hookSlot{}, Nodes: []hookNode{}}
	for _, sl := range st.Slots {
		now.Slots = append(now.Slots, hookSlot{sl.ID, sl.Master, sl.Epoch})
		if sl.Master == n.cfg.Node.Name {
			now.Masters = append(now.Masters, sl.ID)
		}
	}
	settled = st.ClusterID != "" && (n.clientsOpen.Load() || n.cfg.Node.Witness)
	for _, m := range n.nodes(st, v) {
		if m.State == "unknown" || m.State == "silent" && v.Silence(m.Name) < n.cfg.Replication.SuspectAfter {
			i := slices.IndexFunc(told.Nodes, func(h hookNode) bool { return h.Node == m.Name })
			if i < 0 {
				settled = false
				continue
			}
			m.State = told.Nodes[i].State
		}
		now.Nodes = append(now.Nodes, hookNode{m.Name, m.State})
	}
	return now, settled
}

// hooks runs the command of [hooks] on_change until ctx ends, one at a time. Nothing
// waits for it, and nothing is queued: a call tells how things are now, and how that
// differs from what the last call that succeeded was told. So what changes while the
// command runs, or fails, is in the next call, and after a restart the command hears
// of all once.
func (n *Node) hooks(ctx context.Context) {
	if n.cfg.OnChange == "" {
		return
	}
	h := hook{n: n, pause: hookPauseMin}
	for pause(ctx, hookLookEvery) {
		h.look(ctx)
	}
	// What has changed by the node's own end, it takes no clients, is told as well.
	h.again = 0
	h.look(ctx)
}

// hook is what the loop remembers.
type hook struct {
	n     *Node
	told  hookState
	once  bool          // told is of this process
	again time.Duration // Clock.Mono: not before, after a failure
	pause time.Duration // after the next failure
}

const (
	hookLookEvery = 200 * time.Millisecond
	hookPauseMin  = time.Second
	hookPauseMax  = time.Minute
)

// look calls the command when it has something to tell.
func (h *hook) look(ctx context.Context) {
	n := h.n
	now, settled := n.hookState(h.told)
	if !settled && !h.once && !n.stopping.Load() || n.clock.Mono() < h.again {
		return
	}
	call := hookCall{hookState: now, First: !h.once, Changes: []hookChange{}}
	if h.once {
		if call.Changes = now.changesSince(h.told); len(call.Changes) == 0 {
			return
		}
	}
	input, err := json.Marshal(call)
	if err != nil {
		n.log.Error("hook", "err", err)
		return
	}
	out, err := runHook(ctx, hookCommand{text: n.cfg.OnChange, node: n.cfg.Node.Name, socket: n.cfg.Node.Socket, input: append(input, '\n'), within: hookWithin})
	n.setCondition(monitor.HookFailed, "", err)
	if err != nil {
		n.log.Warn("hook failed", "changes", len(call.Changes), "err", err, "output", out, "again_after", h.pause)
		h.again = n.clock.Mono() + h.pause
		h.pause = min(2*h.pause, hookPauseMax)
		return
	}
	n.log.Info("hook ran", "changes", len(call.Changes), "first", call.First, "output", out)
	h.told, h.once, h.pause = now, true, hookPauseMin
}
