package cluster

import (
	"fmt"
	"slices"

	"mailnode/storage/slot"
)

// MaxFormer bounds the installations that are remembered after they have left.
const MaxFormer = 100

// Former is an installation that is no member any more: its key is never believed
// again, whatever a node has or has not heard since.
type Former struct {
	Name     slot.NodeName `json:"n"`
	ServerID string        `json:"id"`
	Key      string        `json:"k,omitempty"` // absent: it was a cluster's first node, of an older release
	Replaced bool          `json:"rp,omitempty"`
	By       string        `json:"by,omitempty"`
	WallTime string        `json:"w,omitempty"` // shown only (law 11)
}

// ReplaceMember gives a member's name and place to another machine, which has a
// token for it (LAWS §6.18). The slots stay whose they are: what the machine has of them on its
// disks decides what becomes of its copies, and a master whose copy is gone does
// not serve an empty one. Was is the installation that was found dead.
type ReplaceMember struct {
	Member   Member `json:"member"`
	Was      string `json:"was"` // its ServerID
	Token    string `json:"token"`
	Hash     string `json:"hash"`
	By       string `json:"by,omitempty"`
	WallTime string `json:"wall,omitempty"`
}

func (ReplaceMember) kind() string { return "replace-member" }

func (c ReplaceMember) apply(s *State, index uint64) (Result, error) {
	again, token, err := s.admits(c.Member, c.Token, c.Hash)
	if err != nil || again {
		return Result{}, err
	}
	at, ok := s.memberAt(c.Member.Name)
	if !ok {
		return Result{}, unknownMember(c.Member.Name)
	}
	old, m := s.Members[at], c.Member
	what := "member " + string(m.Name)
	if old.ServerID != c.Was {
		return Result{}, ErrInvalid{what, "another machine has taken its place meanwhile; look again and repeat"}
	}
	m.Zone, m.Release, m.Held = shown(m.Zone), "", old.Held
	if err := m.check(); err != nil {
		return Result{}, err
	}
	if err := s.mayKnow(m); err != nil {
		return Result{}, err
	}
	if err := s.freeServer(m); err != nil {
		return Result{}, err
	}
	if held, ok := s.copyOn(m.Name); ok && m.Role == Witness {
		return Result{}, ErrInvalid{what, fmt.Sprintf("it holds slot %s, a witness holds no mail", held.ID)}
	}
	s.Members = slices.Clone(s.Members)
	s.Members[at] = m
	s.useToken(token)
	s.leave(old, true, c.By, c.WallTime)
	for _, sl := range s.Slots {
		if sl.Master == m.Name && sl.AtLeast == 0 {
			sl.AtLeast = slot.At(1, 0) // any copy that was served has more, an empty one less
			s.put(sl, index)
		}
	}
	return Result{}, nil
}

// leave remembers an installation that is no member any more.
func (s *State) leave(m Member, replaced bool, by, wall string) {
	s.Former = append(slices.Clone(s.Former), Former{Name: m.Name, ServerID: m.ServerID, Key: m.Key, Replaced: replaced, By: shown(by), WallTime: shown(wall)})
	if over := len(s.Former) - MaxFormer; over > 0 {
		s.Former = slices.Clone(s.Former[over:])
	}
}

// FormerOf returns what is remembered of an installation that has left: by its key,
// or by its name where the key was never known and nobody has the name now.
func (s *State) FormerOf(n slot.NodeName, key string) (Former, bool) {
	m, is := s.Member(n)
	for _, f := range slices.Backward(s.Former) {
		if f.Name == n && (f.Key == key && key != "" || f.Key == "" && (!is || m.Key != "" && m.Key != key)) {
			return f, true
		}
	}
	return Former{}, false
}

// Need is a slot that keeps a node in the cluster.
type Need struct {
	Slot   slot.ID
	Master bool   // the node is its master
	Why    string // in words
}

// Needs lists the slots for whose sake a node may not be removed: it is the master,
// or the others' copies are not enough without it.
func (s *State) Needs(n slot.NodeName) []Need {
	var out []Need
	for _, sl := range s.Slots {
		if !sl.Holds(n) {
			continue
		}
		if why := s.needed(sl, n); why != "" {
			out = append(out, Need{sl.ID, sl.Master == n, why})
		}
	}
	return out
}

func (s *State) needed(sl Slot, n slot.NodeName) string {
	left := sl.Staying(n)
	counts := func(n slot.NodeName) bool { return slices.Contains(sl.InSync, n) }
	wants := sl.Wants(s.DefaultReplicas)
	l, h := sl.OpenLoss, sl.HandOver
	switch {
	case sl.Master == n:
		return "it is the master"
	case h != nil:
		return "a hand-over of it is under way"
	case sl.Moving() && slices.Contains([]slot.NodeName{sl.Move.To, sl.Move.From, sl.Move.Lead}, n):
		return "a move of its copies is under way"
	case l != nil && (l.Node == n || slices.Contains(l.Also, n)):
		return "its copy may have mail that is not rescued"
	case !sl.Begun() && slices.Contains(sl.Awaits, n):
		return "its master has to hear this copy before it serves"
	case len(left) == 0:
		return "it has the only replica"
	case len(left) < wants:
		return fmt.Sprintf("%d of %d replicas would be left", len(left), wants)
	case counts(n):
		return "acknowledgements wait for its copy"
	case !slices.ContainsFunc(left, counts):
		return "no other replica is in sync"
	}
	return ""
}
