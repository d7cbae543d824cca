package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/slot"
)

// routes is the whole protocol.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/version", read(s, func(context.Context, *http.Request) (Version, error) {
		v := Version{Node: s.node, Version: s.version}
		if r, ok := s.backend.Failovers.(Recorder); ok {
			v.Leaderless = r.Recorded().RecordStale
		}
		return v, nil
	}))
	mux.Handle("GET /v1/status", read(s, s.status))
	s.failoverRoutes(mux)
	s.userRoutes(mux)
	s.jobRoutes(mux)
	s.mendRoutes(mux)
	s.reindexRoutes(mux)
	s.upgradeRoutes(mux)
	s.placeRoutes(mux)
	s.removeRoutes(mux)
	s.moveRoutes(mux)
	s.rescueRoutes(mux)
	s.servingRoutes(mux)
	s.copiesRoutes(mux)
	s.recoveryRoutes(mux)
	s.incidentRoutes(mux)
	s.aloneRoutes(mux)
	mux.Handle("GET /v1/slots", read(s, func(ctx context.Context, _ *http.Request) (Slots, error) {
		list, err := s.backend.Slots.List(ctx)
		return Slots{Slots: orEmpty(list)}, err
	}))
	mux.Handle("GET /v1/slots/{id}", read(s, s.slot))
	mux.Handle("POST /v1/losses/dismiss", change(s, "dismiss open loss", requestTimeout, func(ctx context.Context, q DismissLoss, by string) (struct{}, error) {
		q.By = by
		return struct{}{}, s.backend.Slots.Dismiss(ctx, q)
	}))
	mux.Handle("GET /v1/members", read(s, func(ctx context.Context, _ *http.Request) (Members, error) {
		m, err := s.backend.Cluster.Members(ctx)
		m.Members = orEmpty(m.Members)
		return m, err
	}))
	mux.Handle("POST /v1/tokens", change(s, "make join token", requestTimeout, func(ctx context.Context, q TokenRequest, by string) (Token, error) {
		q.By = by
		return s.backend.Cluster.Token(ctx, q)
	}))
	// Profiles of the running node, for whoever may read its mail anyway:
	// curl --unix-socket SOCKET 'http://x/debug/pprof/profile?seconds=10'.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, &Error{Text: fmt.Sprintf("%s %s: this node (%s) does not know that request", r.Method, r.URL.Path, s.version),
			Exit: ExitUsage, Next: "mailnode version", status: http.StatusNotFound})
	}))
	return mux
}

func (s *Server) status(ctx context.Context, _ *http.Request) (Status, error) {
	st, err := s.backend.Health.Status(ctx)
	if err != nil {
		return st, err
	}
	if st.Verdict == "" {
		st.Verdict, st.First = Verdict(st, namedMax), FirstCommand(st)
	}
	st.Nodes, st.Slots, st.Proposals = orEmpty(st.Nodes), orEmpty(st.Slots), orEmpty(st.Proposals)
	st.Conditions, st.Jobs = orEmpty(st.Conditions), orEmpty(st.Jobs)
	return st, nil
}

// slot names the slots that there are when it is asked for another.
func (s *Server) slot(ctx context.Context, r *http.Request) (SlotDetail, error) {
	id, err := slot.ParseID(r.PathValue("id"))
	if err != nil {
		return SlotDetail{}, &Error{Text: err.Error(), Exit: ExitUsage, Next: "mailnode slot list"}
	}
	list, err := s.backend.Slots.List(ctx)
	if err != nil {
		return SlotDetail{}, err
	}
	if !slices.ContainsFunc(list, func(st SlotStatus) bool { return st.Slot == id }) {
		there := "there are none yet"
		if len(list) > 0 {
			there = fmt.Sprintf("there are %s to %s", list[0].Slot, list[len(list)-1].Slot)
		}
		return SlotDetail{}, &Error{Text: fmt.Sprintf("find slot %q: %s", id, there), Exit: ExitUsage, Next: "mailnode slot list", status: http.StatusNotFound}
	}
	return s.backend.Slots.Show(ctx, id)
}

func (s *Server) failoverRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/failover/proposals", read(s, func(ctx context.Context, r *http.Request) (Proposals, error) {
		list, err := s.backend.Failovers.Proposals(ctx, r.URL.Query().Get("all") == "1")
		for i := range list {
			list[i].Slots = orEmpty(list[i].Slots)
		}
		out := Proposals{Proposals: orEmpty(list)}
		if r, ok := s.backend.Failovers.(Recorder); ok {
			out.Recorded = r.Recorded()
		}
		return out, err
	}))
	mux.Handle("GET /v1/failover/plan", read(s, func(ctx context.Context, r *http.Request) (Plan, error) {
		id, err := s.choose(ctx, r.URL.Query().Get("id"))
		if err != nil {
			return Plan{}, err
		}
		plan, err := s.backend.Failovers.Plan(ctx, id)
		if err != nil {
			return plan, s.unknown(ctx, id, err)
		}
		plan.Slots = orEmpty(plan.Slots)
		return plan, nil
	}))
	mux.Handle("POST /v1/failover/propose", change(s, "propose failover", requestTimeout, func(ctx context.Context, q ProposeRequest, by string) (Proposed, error) {
		q.By = by
		return s.backend.Failovers.Propose(ctx, q)
	}))
	mux.Handle("POST /v1/failover/confirm", change(s, "confirm failover", confirmTimeout, func(ctx context.Context, q ConfirmRequest, by string) (Outcome, error) {
		id, err := s.choose(ctx, q.ID)
		if err != nil {
			return Outcome{}, err
		}
		q.ID, q.By = id, by
		out, err := s.backend.Failovers.Confirm(ctx, q)
		if err != nil {
			return out, s.unknown(ctx, id, err)
		}
		out.Done, out.Refused, out.NotServing = orEmpty(out.Done), orEmpty(out.Refused), orEmpty(out.NotServing)
		return out, nil
	}))
	mux.Handle("POST /v1/failover/reject", change(s, "reject failover", requestTimeout, func(ctx context.Context, q RejectRequest, by string) (struct{}, error) {
		id, err := s.choose(ctx, q.ID)
		if err != nil {
			return struct{}{}, err
		}
		q.ID, q.By = id, by
		if err := s.backend.Failovers.Reject(ctx, q); err != nil {
			return struct{}{}, s.unknown(ctx, id, err)
		}
		return struct{}{}, nil
	}))
}

// choose returns the proposal that is meant: the named one, or the only open one.
func (s *Server) choose(ctx context.Context, id string) (string, error) {
	if id != "" {
		return id, nil
	}
	list, err := s.open(ctx)
	if err != nil {
		return "", err
	}
	st, err := s.backend.Health.Status(ctx)
	switch {
	case err != nil:
		return "", err
	case len(list) == 0 && st.Leader == "":
		return "", &Error{Text: "no proposal is open, and none can be made: this node knows no Raft leader; more than half of the voters must be up", Exit: ExitRefused, Next: "mailnode status"}
	case len(list) == 0:
		return "", &Error{Text: "no proposal is open", Exit: ExitNothing}
	case len(list) > 1:
		return "", &Error{Text: "several proposals are open, name one: " + named(list), Exit: ExitUsage, Next: "mailnode failover list"}
	}
	return list[0].ID, nil
}

// open lists the open proposals.
func (s *Server) open(ctx context.Context) ([]Proposal, error) {
	list, err := s.backend.Failovers.Proposals(ctx, false)
	return slices.DeleteFunc(list, func(p Proposal) bool { return p.State != "open" }), err
}

// named names proposals, and says what each is for.
func named(list []Proposal) string {
	var out []string
	for _, p := range list {
		text := p.ID
		if p.Reason != "" {
			text += " (" + p.Reason + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// unknown says which proposals there are when the backend did not find one. One
// that was closed is found, and refused in other words.
func (s *Server) unknown(ctx context.Context, id string, err error) error {
	var missing cluster.ErrNotFound
	if !errors.As(err, &missing) || missing.Kind != "proposal" {
		return err
	}
	there := "no proposal is open"
	if open, err := s.open(ctx); err == nil && len(open) > 0 {
		there = "open are " + named(open)
	}
	return &Error{Text: fmt.Sprintf("find proposal %q: %s", id, there), Exit: ExitUsage, Next: "mailnode failover list", status: http.StatusNotFound}
}

func (s *Server) userRoutes(mux *http.ServeMux) {
	s.removalRoutes(mux)
	mux.Handle("GET /v1/users", read(s, func(ctx context.Context, r *http.Request) (Users, error) {
		ask := s.backend.Users.List
		if r.URL.Query().Get("deleted") == "1" {
			ask = s.backend.Users.Deleted
		}
		list, err := ask(ctx)
		list.Users = orEmpty(list.Users)
		return list, err
	}))
	mux.Handle("GET /v1/users/{address}", read(s, func(ctx context.Context, r *http.Request) (User, error) {
		a, err := address(r.PathValue("address"))
		if err != nil {
			return User{}, err
		}
		return s.backend.Users.Show(ctx, a)
	}))
	mux.Handle("POST /v1/users", change(s, "add user", requestTimeout, func(ctx context.Context, q AddUser, by string) (User, error) {
		a, err := address(string(q.Address))
		if err != nil {
			return User{}, err
		}
		if err := checkPassword(q.Password); err != nil {
			return User{}, err
		}
		if q.QuotaBytes < 0 {
			return User{}, &Error{Text: fmt.Sprintf("add user %q: a quota cannot be negative", a), Exit: ExitUsage}
		}
		q.Address, q.By = a, by
		return s.backend.Users.Add(ctx, q)
	}))
	mux.Handle("POST /v1/users/password", change(s, "set password", requestTimeout, func(ctx context.Context, q SetPassword, by string) (struct{}, error) {
		a, err := address(string(q.Address))
		if err != nil {
			return struct{}{}, err
		}
		if err := checkPassword(q.Password); err != nil {
			return struct{}{}, err
		}
		q.Address, q.By = a, by
		return struct{}{}, s.backend.Users.SetPassword(ctx, q)
	}))
}

func checkPassword(p string) error {
	if err := storage.CheckPassword(p); err != nil {
		return &Error{Text: err.Error(), Exit: ExitUsage}
	}
	return nil
}

func address(s string) (slot.Address, error) {
	a, err := slot.ParseAddress(s)
	if err != nil {
		return "", &Error{Text: err.Error(), Exit: ExitUsage}
	}
	return a, nil
}

// orEmpty makes an empty list [] in JSON, never null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
