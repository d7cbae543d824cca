package cluster

import (
	"fmt"
	"slices"
	"strings"

	"mailnode/storage/slot"
)

func (c Init) apply(s *State, index uint64) (Result, error) {
	switch {
	case s.ClusterID != "":
		return Result{}, ErrExists{Kind: "cluster", Name: s.ClusterID}
	case !validName(c.ClusterID, 2*maxName):
		return Result{}, ErrInvalid{"cluster ID", fmt.Sprintf("%q is not a name", shown(c.ClusterID))}
	case c.SlotCount < 1 || c.SlotCount > slot.MaxSlots:
		return Result{}, ErrInvalid{"slot count", fmt.Sprintf("%d is not between 1 and %d", c.SlotCount, slot.MaxSlots)}
	case c.DefaultReplicas < 0 || c.DefaultReplicas > MaxReplicas:
		return Result{}, ErrInvalid{"replicas", fmt.Sprintf("%d is not between 0 and %d", c.DefaultReplicas, MaxReplicas)}
	case c.PlaceAt < 0 || c.PlaceAt > MaxMembers:
		return Result{}, ErrInvalid{"nodes", fmt.Sprintf("%d is not between 0 and %d", c.PlaceAt, MaxMembers)}
	}
	m := c.First
	m.Zone, m.Release = shown(m.Zone), shown(m.Release)
	if err := m.check(); err != nil {
		return Result{}, err
	}
	s.ClusterID, s.SlotCount, s.DefaultReplicas, s.PlaceAt = c.ClusterID, c.SlotCount, c.DefaultReplicas, c.PlaceAt
	if m.Knows() > slot.FirstFeatureLevel { // nobody is there who knows less
		s.FeatureLevel = m.Knows()
	}
	s.Members = []Member{m}
	s.Slots = make([]Slot, c.SlotCount)
	for i := range s.Slots {
		s.Slots[i] = Slot{ID: slot.ID(i), Version: index}
	}
	return Result{}, nil
}

func (c AddMember) apply(s *State, _ uint64) (Result, error) {
	if c.Token == "" {
		return s.add(c.Member)
	}
	again, token, err := s.admits(c.Member, c.Token, c.Hash)
	if err != nil || again {
		return Result{}, err
	}
	res, err := s.add(c.Member)
	if err == nil {
		s.useToken(token)
	}
	return res, err
}

// admits finds the token with which a machine may become a member. again: it has
// become one with it, and did not hear the answer.
func (s *State) admits(m Member, token, hash string) (again bool, at int, err error) {
	if is, ok := s.MemberByServerID(m.ServerID); ok && is.Name == m.Name && is.Key != "" {
		if is.Key == m.Key {
			return true, 0, nil
		}
		return false, 0, ErrExists{Kind: "member", Name: string(m.Name), Why: "its token was used by another key"}
	}
	at = slices.IndexFunc(s.Tokens, func(t Token) bool { return t.ID == token && t.Node == m.Name })
	switch {
	case at < 0:
		return false, 0, ErrNotFound{"token", shown(token)}
	case s.Tokens[at].Hash != hash:
		return false, 0, ErrInvalid{"token " + token, "the secret is not the right one"}
	case !isSHA256(m.Key):
		return false, 0, ErrInvalid{"member " + string(m.Name), "the hash of its key is not a SHA-256 in lower-case hex"}
	}
	if slices.ContainsFunc(s.Former, func(f Former) bool { return f.Key == m.Key }) {
		return false, 0, ErrInvalid{"member " + string(m.Name), "its key is that of an installation that has left: remove join-key.pem from its data folder, and repeat"}
	}
	return false, at, nil
}

func (s *State) useToken(at int) { s.Tokens = slices.Delete(slices.Clone(s.Tokens), at, at+1) }

// add puts a member on the list. One of its name that never came up is replaced:
// its node has lost what it joined with.
func (s *State) add(m Member) (Result, error) {
	m.Zone, m.Release = shown(m.Zone), shown(m.Release)
	if err := m.check(); err != nil {
		return Result{}, err
	}
	if err := s.mayKnow(m); err != nil {
		return Result{}, err
	}
	at, exists := s.memberAt(m.Name)
	if exists && !s.Absent(m.Name) {
		return Result{}, ErrExists{Kind: "member", Name: string(m.Name)}
	}
	if err := s.freeServer(m); err != nil {
		return Result{}, err
	}
	if exists {
		s.Members = slices.Clone(s.Members)
		s.Members[at] = m
		return Result{}, nil
	}
	if len(s.Members) >= MaxMembers {
		return Result{}, ErrInvalid{"member " + string(m.Name), fmt.Sprintf("the cluster has %d members, the most it may have", MaxMembers)}
	}
	s.Members = slices.Insert(slices.Clone(s.Members), at, m)
	return Result{}, nil
}

// freeServer refuses a member whose Raft ID is somebody's.
func (s *State) freeServer(m Member) error {
	if other, ok := s.MemberByServerID(m.ServerID); ok {
		return ErrExists{Kind: "member", Name: string(m.Name), Why: fmt.Sprintf("its Raft ID %q is that of %s", m.ServerID, other.Name)}
	}
	return nil
}

// Absent reports whether a member joined with a token and never came up: a node
// says its release when it starts first. It holds no slot.
func (s *State) Absent(n slot.NodeName) bool {
	m, ok := s.Member(n)
	if !ok || m.Key == "" || m.Release != "" {
		return false
	}
	_, holds := s.copyOn(n)
	return !holds
}

func (c UpdateMember) apply(s *State, _ uint64) (Result, error) {
	at, ok := s.memberAt(c.Name)
	if !ok {
		return Result{}, unknownMember(c.Name)
	}
	m := s.Members[at]
	if c.ServerID != "" {
		m.ServerID = c.ServerID
	}
	if c.Addr != "" {
		m.Addr = c.Addr
	}
	if c.Role != "" {
		m.Role = c.Role
	}
	if c.Zone != nil {
		m.Zone = shown(*c.Zone)
	}
	if c.Standby != nil {
		m.Standby = *c.Standby
	}
	if c.Features != 0 {
		m.Features = c.Features
	}
	if c.Release != "" {
		m.Release = shown(c.Release)
	}
	if err := s.mayKnow(m); err != nil {
		return Result{}, err
	}
	if err := m.check(); err != nil {
		return Result{}, err
	}
	if other, ok := s.MemberByServerID(m.ServerID); ok && other.Name != m.Name {
		return Result{}, ErrExists{Kind: "member", Name: string(m.Name),
			Why: fmt.Sprintf("its Raft ID %q is that of %s", m.ServerID, other.Name)}
	}
	if held, ok := s.copyOn(c.Name); ok && m.Role == Witness {
		return Result{}, ErrInvalid{"member " + string(c.Name), fmt.Sprintf("it holds slot %s, a witness holds no mail", held.ID)}
	}
	s.Members[at] = m
	return Result{}, nil
}

func (c RemoveMember) apply(s *State, index uint64) (Result, error) {
	at, ok := s.memberAt(c.Name)
	if !ok {
		return Result{}, unknownMember(c.Name)
	}
	if needs := s.Needs(c.Name); len(needs) > 0 {
		return Result{}, ErrInvalid{"member " + string(c.Name),
			fmt.Sprintf("slot %s keeps it: %s; move its slots away first: mailnode slot rebalance --node %s", needs[0].Slot, needs[0].Why, c.Name)}
	}
	if len(s.Members) == 1 {
		return Result{}, ErrInvalid{"member " + string(c.Name), "it is the last member"}
	}
	for _, sl := range s.Slots {
		if !sl.Holds(c.Name) && sl.Home != c.Name {
			continue
		}
		sl.unlist(c.Name)
		if sl.Home == c.Name { // another node of that name is another node
			sl.Home = sl.Master
		}
		s.put(sl, index)
	}
	m := s.Members[at]
	s.Members = slices.Delete(slices.Clone(s.Members), at, at+1)
	s.Tokens = slices.DeleteFunc(slices.Clone(s.Tokens), func(t Token) bool { return t.Node == c.Name })
	s.leave(m, false, c.By, c.WallTime)
	return Result{}, nil
}

func (c AddToken) apply(s *State, _ uint64) (Result, error) {
	t := c.Token
	if !validName(t.ID, maxName) || !validName(string(t.Node), maxName) {
		return Result{}, ErrInvalid{"token " + shown(t.ID), "its ID or its node is not a name"}
	}
	if !isSHA256(t.Hash) {
		return Result{}, ErrInvalid{"token " + t.ID, "its hash is not a SHA-256 in lower-case hex"}
	}
	if t.LeftS < 1 || t.LeftS > MaxTokenSeconds {
		return Result{}, ErrInvalid{"token " + t.ID, fmt.Sprintf("it is for %d s, not between 1 and %d", t.LeftS, MaxTokenSeconds)}
	}
	if slices.ContainsFunc(s.Tokens, func(o Token) bool { return o.ID == t.ID }) {
		return Result{}, ErrExists{Kind: "token", Name: t.ID}
	}
	kept := slices.DeleteFunc(slices.Clone(s.Tokens), func(o Token) bool { return o.Node == t.Node })
	if len(kept) >= MaxTokens {
		return Result{}, ErrInvalid{"token " + t.ID, fmt.Sprintf("%d tokens wait to be used, the most there may be: use one, or wait until one expires", MaxTokens)}
	}
	s.Tokens = append(kept, t)
	slices.SortFunc(s.Tokens, func(a, b Token) int { return strings.Compare(a.ID, b.ID) })
	return Result{}, nil
}

func (c AgeTokens) apply(s *State, _ uint64) (Result, error) {
	if c.Seconds < 1 {
		return Result{}, ErrInvalid{"age of tokens", fmt.Sprintf("%d s is no time", c.Seconds)}
	}
	var left []Token
	for _, t := range s.Tokens {
		if t.LeftS > c.Seconds {
			t.LeftS -= c.Seconds
			left = append(left, t)
		}
	}
	s.Tokens = left
	return Result{}, nil
}

// copyOn returns the first slot of which a node holds a copy.
func (s *State) copyOn(n slot.NodeName) (Slot, bool) {
	for _, sl := range s.Slots {
		if sl.Holds(n) {
			return sl, true
		}
	}
	return Slot{}, false
}

// mailNode refuses names that are no members, and witnesses.
func (s *State) mailNode(n slot.NodeName) error {
	m, ok := s.Member(n)
	if !ok {
		return unknownMember(n)
	}
	if m.Role == Witness {
		return ErrInvalid{"member " + string(n), "it is a witness and holds no mail"}
	}
	return nil
}

func (m Member) check() error {
	what := "member " + shown(string(m.Name))
	switch {
	case !validName(string(m.Name), maxName):
		return ErrInvalid{what, fmt.Sprintf("a node name has 1 to %d letters, digits, '-', '_' or '.'", maxName)}
	case !validName(m.ServerID, 2*maxName):
		return ErrInvalid{what, fmt.Sprintf("Raft ID %q is not a name", shown(m.ServerID))}
	case !validAddr(m.Addr):
		return ErrInvalid{what, fmt.Sprintf("peer address %q is not host:port", shown(m.Addr))}
	case m.Key != "" && !isSHA256(m.Key):
		return ErrInvalid{what, "the hash of its key is not a SHA-256 in lower-case hex"}
	case m.Role != Voter && m.Role != Nonvoter && m.Role != Witness:
		return ErrInvalid{what, fmt.Sprintf("role %q is none of voter, nonvoter, witness", shown(string(m.Role)))}
	}
	return nil
}

func isSHA256(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

func unknownMember(n slot.NodeName) error { return ErrNotFound{"member", shown(string(n))} }

// validName keeps names safe in certificates, file names and on terminals.
func validName(s string, longest int) bool {
	if s == "" || len(s) > longest || strings.ContainsAny(s[:1], "-_.") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// validAddr checks the form only; net is not for this package.
func validAddr(s string) bool {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || i == len(s)-1 || len(s) > 2*maxName+maxName || strings.Trim(s[i+1:], "0123456789") != "" {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}
