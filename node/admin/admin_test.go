package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/slot"
)

// The HTTP server lingers half a second on a connection that sent too much.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// site is the node of these tests: it records what it was asked.
type site struct {
	status    Status
	confirmed []ConfirmRequest
	added     []AddUser
	orders    []any
	confirm   func(ctx context.Context) error // waited for inside of Confirm
}

func (s *site) backend() Backend {
	return Backend{Health: s, Failovers: failovers{s}, Users: users{s}, Slots: slots{s}, Cluster: members{}}
}

func (s *site) Status(context.Context) (Status, error) { return s.status, nil }

type failovers struct{ *site }

func (f failovers) Proposals(context.Context, bool) ([]Proposal, error) {
	return f.status.Proposals, nil
}

func (f failovers) Plan(_ context.Context, id string) (Plan, error) {
	for _, p := range f.status.Proposals {
		if p.ID == id {
			return Plan{Proposal: p, Text: "plan of " + id}, nil
		}
	}
	if id == "p1" {
		return Plan{}, fmt.Errorf("plan: %w", cluster.ErrClosed{Proposal: id, State: cluster.Withdrawn})
	}
	return Plan{}, fmt.Errorf("plan: %w", cluster.ErrNotFound{Kind: "proposal", Name: id})
}

func (f failovers) Confirm(ctx context.Context, r ConfirmRequest) (Outcome, error) {
	if f.confirm != nil {
		if err := f.confirm(ctx); err != nil {
			return Outcome{}, err
		}
	}
	f.site.confirmed = append(f.site.confirmed, r)
	return Outcome{Text: "done"}, nil
}

func (f failovers) Propose(_ context.Context, r ProposeRequest) (Proposed, error) {
	return Proposed{ID: "p1", Text: "p1 is open"}, users(f).order(r)
}

func (f failovers) Reject(context.Context, RejectRequest) error { return nil }

type users struct{ *site }

func (u users) Add(_ context.Context, r AddUser) (User, error) {
	u.site.added = append(u.site.added, r)
	return User{Address: r.Address}, nil
}
func (u users) SetPassword(context.Context, SetPassword) error { return nil }
func (u users) List(context.Context) (Users, error)            { return Users{}, nil }
func (u users) SetQuota(_ context.Context, r SetQuota) error   { return u.order(r) }
func (u users) SetDisabled(_ context.Context, r SetDisabled) error {
	return u.order(r)
}
func (u users) Delete(_ context.Context, r NamedUser) error { return u.order(r) }
func (u users) Erase(_ context.Context, r NamedUser) error  { return u.order(r) }
func (u users) Deleted(context.Context) (Users, error) {
	return Users{Users: []User{{Address: "gone@example.org", Deleted: true, LeftS: 5}}}, nil
}
func (u users) Undelete(_ context.Context, r UndeleteUser) (Undeleted, error) {
	return Undeleted{Messages: 1}, u.order(r)
}

// order notes what came through to the backend.
func (u users) order(o any) error {
	u.site.orders = append(u.site.orders, o)
	return nil
}

func (u users) Show(_ context.Context, a slot.Address) (User, error) {
	return User{}, storage.Errorf(storage.ErrNotFound, "find user %q: unknown", a)
}

type slots struct{ *site }

func (s slots) List(context.Context) ([]SlotStatus, error) { return s.status.Slots, nil }
func (s slots) Dismiss(context.Context, DismissLoss) error { return nil }

func (s slots) Show(_ context.Context, id slot.ID) (SlotDetail, error) {
	return SlotDetail{SlotStatus: SlotStatus{Slot: id}}, nil
}

type members struct{}

func (members) Members(context.Context) (Members, error)            { return Members{}, nil }
func (members) Place(context.Context, PlaceRequest) (Placed, error) { return Placed{Slots: 12}, nil }

func (members) Upgrade(context.Context, UpgradeRequest) error { return nil }
func (members) Token(_ context.Context, r TokenRequest) (Token, error) {
	return Token{Node: r.Node, Token: "secret"}, nil
}

// serve puts a site behind a real socket.
func serve(t *testing.T, s *site, log *slog.Logger) (*Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(s.backend(), "n1", "1.0", log)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return NewClient(path), path
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestEmptyShapes holds LAWS §8.1's JSON: lists are lists, never null.
func TestEmptyShapes(t *testing.T) {
	socket := sockOf(t, &site{})
	for path, want := range map[string]string{
		"/v1/failover/proposals": `{"proposals":[]}`,
		"/v1/slots":              `{"slots":[]}`,
		"/v1/users":              `{"users":[]}`,
		"/v1/status": `{"verdict":"all is well","nodes":[],"slots":[],"proposals":[],"conditions":[],"node":"","state":"","version":"",` +
			`"cluster":"","generation":0,"leader":"","jobs":[]}`,
	} {
		if got := strings.TrimSpace(raw(t, path, "GET", "", socket)); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func sockOf(t *testing.T, s *site) string {
	_, path := serve(t, s, quiet())
	return path
}

// raw sends one request and returns the answer's body.
func raw(t *testing.T, path, method, body, socket string) string {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	r, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	w, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProposalShape(t *testing.T) {
	lag, events, users := 0.2, uint64(0), 12
	p := Proposals{Proposals: []Proposal{{ID: "p3", Node: "n1", State: "open", SinceS: 17,
		Slots: []ProposedSlot{{Slot: 7, From: "n1", To: "n2", Safe: true, LagS: &lag, EventsAtRisk: &events, Users: &users}, {Slot: 8, From: "n1"}}}}}
	got, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"proposals":[{"id":"p3","node":"n1","state":"open","since_s":17,"slots":[{"slot":"s007","from":"n1","to":"n2","safe":true,"lag_s":0.2,"events_at_risk":0,"users":12},{"slot":"s008","from":"n1","to":"","safe":false,"lag_s":null,"events_at_risk":null,"users":null}]}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestHalfEscapedCharacters(t *testing.T) {
	for text, want := range map[string]bool{
		`"p\udce4ss"`: true, `"\ud83d"`: true, `"\ud83dx"`: true, `"\ud83d\ud83d"`: true, `"\ude00\ud83d"`: true, `"\ud83d\n\ude00"`: true, `"\\\udce4"`: true,
		`"\ud83d\ude00"`: false, `"\uD83D\uDE00"`: false, `"\\udce4"`: false, `"\ufffd\u00e4"`: false, `"ä"`: false, `"\u"`: false, `"\`: false, ``: false,
	} {
		if got := halfEscaped([]byte(text)); got != want {
			t.Errorf("%s: %t, want %t", text, got, want)
		}
	}
}

func TestChoiceOfProposal(t *testing.T) {
	one, two := Proposal{ID: "p3", State: "open"}, Proposal{ID: "p4", State: "open", Reason: "n1 is silent"}
	for _, c := range []struct {
		open []Proposal
		id   string
		exit int
		text string
	}{
		{[]Proposal{one}, "", ExitDone, "plan of p3"},
		{[]Proposal{one, two}, "p4", ExitDone, "plan of p4"},
		{nil, "", ExitNothing, "no proposal is open"},
		{[]Proposal{one, two}, "", ExitUsage, "several proposals are open, name one: p3, p4 (n1 is silent)"},
		{[]Proposal{one}, "p9", ExitUsage, `find proposal "p9": open are p3`},
		{nil, "p9", ExitUsage, `find proposal "p9": no proposal is open`},
		{nil, "p1", ExitRefused, `plan: proposal "p1" is no longer open: it was withdrawn`},
	} {
		client, _ := serve(t, &site{status: Status{Proposals: c.open, Leader: "n1"}}, quiet())
		plan, err := client.Plan(t.Context(), c.id)
		exit, text := ExitDone, plan.Text
		var refusal *Error
		if errors.As(err, &refusal) {
			exit, text = refusal.Exit, refusal.Text
		}
		if exit != c.exit || text != c.text {
			t.Errorf("%v, %q: got %d %q, want %d %q", c.open, c.id, exit, text, c.exit, c.text)
		}
	}
}

// Without a leader nobody can propose: "nothing to do" would be a lie.
func TestNoProposalWithoutLeader(t *testing.T) {
	client, _ := serve(t, &site{}, quiet())
	_, err := client.Plan(t.Context(), "")
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Exit != ExitRefused || !strings.Contains(refusal.Text, "no Raft leader") {
		t.Errorf("plan without a leader: %v", err)
	}
}

// TestLaw12OrderOutlivesItsSender: a confirm goes on when the operator hung up.
func TestLaw12OrderOutlivesItsSender(t *testing.T) {
	begun, hungUp, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	s := &site{status: Status{Proposals: []Proposal{{ID: "p3", State: "open"}}}}
	s.confirm = func(ctx context.Context) error {
		close(begun)
		<-hungUp
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // long enough for the server to notice
		}
		done <- ctx.Err()
		return ctx.Err()
	}
	client, _ := serve(t, s, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := client.Confirm(ctx, ConfirmRequest{ID: "p3"})
		asked <- err
	}()
	<-begun
	cancel()
	if err := <-asked; err == nil {
		t.Error("the cancelled call succeeded")
	}
	close(hungUp)
	if err := <-done; err != nil {
		t.Errorf("the order was cancelled with its sender: %v", err)
	}
}

// TestOrdersAreLogged: with who gave them, and without passwords; nobody can
// say who he is.
func TestOrdersAreLogged(t *testing.T) {
	var log bytes.Buffer
	s := &site{}
	client, path := serve(t, s, slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := client.AddUser(t.Context(), AddUser{Address: "U1@Example.org", Password: "hunter2", By: "somebody else"}); err != nil {
		t.Fatal(err)
	}
	if len(s.added) != 1 || s.added[0].Address != "u1@example.org" || s.added[0].By == "" || s.added[0].By == "somebody else" {
		t.Errorf("got %+v", s.added)
	}
	if got := raw(t, "/v1/users", "POST", `{"address":"u2@example.org","password":"x","by":"root"}`, path); !strings.Contains(got, "unknown field") {
		t.Errorf("a request that says who sent it: %s", got)
	}
	if text := log.String(); !strings.Contains(text, "by="+s.added[0].By) || strings.Contains(text, "hunter2") {
		t.Errorf("logged: %s", text)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	path := sockOf(t, &site{status: Status{Slots: []SlotStatus{{Slot: 0}, {Slot: 1}}}})
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/v2/status", "", `{"error":"GET /v2/status: this node (1.0) does not know that request","exit":2,"next":"mailnode version"}`},
		{"GET", "/v1/slots/7", "", `{"error":"parse slot \"7\": want a name such as s007","exit":2,"next":"mailnode slot list"}`},
		{"GET", "/v1/slots/s007", "", `{"error":"find slot \"s007\": there are s000 to s001","exit":2,"next":"mailnode slot list"}`},
		{"GET", "/v1/users/nobody", "", `{"error":"parse address \"nobody\": want local@domain of at most 254 bytes","exit":2}`},
		{"GET", "/v1/users/u@example.org", "", `{"error":"find user \"u@example.org\": unknown","exit":2}`},
		{"POST", "/v1/users", `{"address":"u@example.org","password":""}`, `{"error":"check password: want 1 to 1000 bytes without line ends and NUL","exit":2}`},
		{"POST", "/v1/users", `{"address":"u@example.org","password":"a\u0000b"}`, `{"error":"check password: want 1 to 1000 bytes without line ends and NUL","exit":2}`},
		{"POST", "/v1/users/password", `{"address":"u@example.org","password":"p` + "\xe4" + `ss"}`, `{"error":"read request: it is not UTF-8","exit":2}`},
		{"POST", "/v1/users/password", `{"address":"u@example.org","password":"p\udce4ss"}`, `{"error":"read request: it escapes half of a character (such as \\udce4): it is not Unicode","exit":2}`},
		{"POST", "/v1/users", `{} {}`, `{"error":"read request: more than one JSON value","exit":2}`},
		{"POST", "/v1/users", `{"address":"` + strings.Repeat("x", bodyMax) + `"}`, `{"error":"read request: http: request body too large","exit":2}`},
	} {
		if got := strings.TrimSpace(raw(t, c.path, c.method, c.body, path)); got != c.want {
			t.Errorf("%s %s:\ngot  %s\nwant %s", c.method, c.path, got, c.want)
		}
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	for who, want := range map[caller]bool{
		{}: false, {known: true, uid: 0}: true, {known: true, uid: uint32(os.Geteuid())}: true, {known: true, uid: 12345}: false, {uid: 0}: false,
	} {
		if got := who.allowed(); got != want {
			t.Errorf("%+v: allowed = %v", who, got)
		}
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another mailnode is running there") {
		t.Errorf("a second listener: %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close() // as kill -9 leaves it
	again, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := os.WriteFile(path, []byte("letter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}

func TestNobodyAnswers(t *testing.T) {
	_, err := NewClient("/nowhere/admin.sock").Status(t.Context())
	want := "is mailnode running? tried /nowhere/admin.sock; use --socket for another"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestReply(t *testing.T) {
	next := &Error{Text: "14 of 15 done", Exit: ExitRefused, Next: "mailnode failover list"}
	for _, c := range []struct {
		err          error
		status, exit int
	}{
		{storage.Errorf(storage.ErrNotFound, "x"), 404, ExitUsage},
		{storage.Errorf(storage.ErrExists, "x"), 409, ExitFailed},
		{storage.Errorf(storage.ErrInvalid, "x"), 400, ExitUsage},
		{fmt.Errorf("y: %w", storage.Errorf(storage.ErrUnavailable, "x")), 503, ExitFailed},
		{storage.Errorf(storage.ErrNotMaster, "x"), 503, ExitFailed},
		{storage.Errorf(storage.ErrAuth, "x"), 403, ExitRefused},
		{fmt.Errorf("y: %w", cluster.ErrStale{What: "epoch of slot s007", Want: 2, Have: 3}), 409, ExitRefused},
		{cluster.ErrClosed{Proposal: "p3", State: cluster.Withdrawn}, 409, ExitRefused},
		{cluster.ErrNotFound{Kind: "member", Name: "n9"}, 404, ExitUsage},
		{cluster.ErrExists{Kind: "member", Name: "n1"}, 409, ExitFailed},
		{cluster.ErrInvalid{What: "x", Why: "y"}, 409, ExitRefused},
		{fmt.Errorf("confirm: %w", next), 409, ExitRefused},
		{&Error{Text: "x", Exit: ExitNothing}, 409, ExitNothing},
		{context.DeadlineExceeded, 504, ExitFailed},
		{errors.New("what is that"), 500, ExitFailed},
	} {
		status, body := reply(c.err)
		if status != c.status || body.Exit != c.exit || body.Text != c.err.Error() {
			t.Errorf("%v: got %d %+v, want %d and exit %d", c.err, status, body, c.status, c.exit)
		}
	}
}

func TestVerdict(t *testing.T) {
	page := func(about string) monitor.Condition {
		return monitor.Condition{Name: "node-silent", Severity: monitor.Page, About: about}
	}
	slots := func(about string) monitor.Condition {
		return monitor.Condition{Name: monitor.SlotUnprotected, Severity: monitor.Page, About: about}
	}
	for _, c := range []struct {
		s    Status
		want string
	}{
		{Status{}, "all is well"},
		{Status{State: "serving", Slots: []SlotStatus{{Serving: true}}, Conditions: []monitor.Condition{{Name: "slot-no-replicas", Severity: monitor.Info}}}, "all is well"},
		{Status{Conditions: []monitor.Condition{page("n1")}}, "1 problem: node-silent n1"},
		{Status{Conditions: []monitor.Condition{page("n1"), {Name: monitor.SlotNoMaster, Severity: monitor.Page, About: "s000"}, {Name: monitor.SlotNoMaster, Severity: monitor.Page, About: "s007"}},
			Slots: []SlotStatus{{}, {Slot: 1, Serving: true}}}, "3 problems: node-silent n1, slot-no-master s007, 1 slot not served"},
		{Status{Node: "n2", State: "starting", Slots: []SlotStatus{{}, {}}}, "2 problems: 2 slots not served, n2 is starting"},
		{Status{Conditions: []monitor.Condition{page("a"), page("b"), page("c"), page("d"), page("e")}},
			"5 problems: node-silent a, node-silent b, node-silent c, node-silent d and 1 more"},
		{Status{Conditions: []monitor.Condition{page("n1"), slots("s000"), slots("s001"), slots("s007")}}, "2 problems: node-silent n1, slot-unprotected of 3 slots"},
	} {
		if got := Verdict(c.s, namedMax); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestFirstCommand: a proposal comes before everything, then the gravest condition
// that stands highest in the table; what leads back to the status leads nowhere.
func TestFirstCommand(t *testing.T) {
	cond := func(name monitor.Name, severity monitor.Severity, next string) monitor.Condition {
		return monitor.Condition{Name: name, Severity: severity, Next: next}
	}
	failed := cond(monitor.SlotFailed, monitor.Page, "slot failed")
	for _, c := range []struct {
		s    Status
		want string
	}{
		{Status{Slots: []SlotStatus{{Serving: true}}}, ""},
		{Status{Conditions: []monitor.Condition{cond(monitor.SlotNoReplicas, monitor.Info, "info")}}, ""},
		{Status{Conditions: []monitor.Condition{cond(monitor.RaftStoreFailed, monitor.Page, "mailnode status")}}, ""},
		{Status{Slots: []SlotStatus{{Slot: 3}}}, "mailnode slot show s003"},
		{Status{Conditions: []monitor.Condition{failed, cond(monitor.SlotNoMaster, monitor.Page, "no master"), cond(monitor.NodeSilent, monitor.Warn, "warn")}}, "no master"},
		{Status{Conditions: []monitor.Condition{failed}, Proposals: []Proposal{{ID: "p3"}}}, "mailnode failover show p3"},
	} {
		if got := FirstCommand(c.s); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func nodeConfig(t *testing.T, name string) config.Config {
	t.Helper()
	dir := t.TempDir()
	c, problems := config.Parse("test", fmt.Sprintf("name = %q\ndata = %q\npeer = \"127.0.0.1:0\"\npeer_advertise = \"127.0.0.1:7\"\nsocket = %q\n",
		name, filepath.Join(dir, "data"), filepath.Join(dir, "a.sock")))
	if problems != nil {
		t.Fatal(problems)
	}
	return c
}

func TestInit(t *testing.T) {
	c := nodeConfig(t, "n1")
	for _, wrong := range []InitOptions{{Slots: 0}, {Slots: slot.MaxSlots + 1}, {Slots: 1, Replicas: -1}, {Slots: 1, Replicas: 99}} {
		var refusal *Error
		if _, err := InitCluster(t.Context(), c, wrong); !errors.As(err, &refusal) || refusal.Exit != ExitUsage {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	id, err := InitCluster(t.Context(), c, InitOptions{Slots: 12, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	first, err := ReadFirstStart(c.Node.Data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(FirstStart{By: ByInit, ServerID: first.ServerID, Slots: 12, Replicas: 1, Nodes: 2}, first); diff != "" || !strings.HasPrefix(first.ServerID, "n1-") {
		t.Errorf("%s, server ID %q", diff, first.ServerID)
	}
	if own, err := peer.Load(c.Node.Data); err != nil || own.ClusterID() != id {
		t.Errorf("cluster %q: %v", id, err)
	}
	var refusal *Error
	if _, err := InitCluster(t.Context(), c, InitOptions{Slots: 12}); !errors.As(err, &refusal) || refusal.Exit != ExitRefused {
		t.Errorf("a second init: %v", err)
	}
}

// TestNoNewIdentityBesideOldPromises: a folder that lost its identity keeps what its
// server promised and knew, and becomes part of no other cluster.
func TestNoNewIdentityBesideOldPromises(t *testing.T) {
	id, err := peer.Init(t.TempDir(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	token, _, _, err := peer.NewToken(id.ClusterID(), id.CAFingerprint(), []string{"127.0.0.1:1"}, "n2")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"raft", "remembered"} {
		c := nodeConfig(t, "n2")
		if err := os.MkdirAll(filepath.Join(c.Node.Data, name), 0o700); err != nil {
			t.Fatal(err)
		}
		_, initErr := InitCluster(t.Context(), c, InitOptions{Slots: 2, BesideOthers: true})
		_, joinErr := JoinCluster(t.Context(), c, token)
		for what, err := range map[string]error{"init": initErr, "join": joinErr} {
			var refusal *Error
			if !errors.As(err, &refusal) || refusal.Exit != ExitRefused || !strings.Contains(refusal.Text, "a folder "+name) {
				t.Errorf("%s beside %s: %v", what, name, err)
			}
		}
		if _, err := ReadFirstStart(c.Node.Data); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("beside %s something was written: %v", name, err)
		}
	}
}

// TestInitBesideALivingCluster: a machine whose configuration names a peer that
// answers, or on whose disks slots lie, founds no second cluster unless it is meant.
func TestInitBesideALivingCluster(t *testing.T) {
	c1, lost, kept := nodeConfig(t, "n1"), nodeConfig(t, "n2"), nodeConfig(t, "n2")
	if _, err := InitCluster(t.Context(), c1, InitOptions{Slots: 2}); err != nil {
		t.Fatal(err)
	}
	id, err := peer.Load(c1.Node.Data)
	if err != nil {
		t.Fatal(err)
	}
	port, err := peer.Listen(c1.Node.Peer, id, peer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	port.Listener(peer.ProtoJoin)
	lost.Node.Peers = []string{port.Addr().String()}
	if err := os.MkdirAll(filepath.Join(kept.Node.Data, "slots", "s007"), 0o700); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]config.Config{id.ClusterID(): lost, "slots of an earlier cluster": kept} {
		var other *OtherCluster
		if _, err := InitCluster(t.Context(), c, InitOptions{Slots: 2}); !errors.As(err, &other) || !strings.Contains(other.Text, want) {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := peer.Load(c.Node.Data); !errors.Is(err, peer.ErrNoCluster) {
			t.Errorf("%s: an identity was made: %v", want, err)
		}
		if _, err := InitCluster(t.Context(), c, InitOptions{Slots: 2, BesideOthers: true}); err != nil {
			t.Errorf("%s: although it was meant: %v", want, err)
		}
	}
}

// TestJoin joins over a real peer port.
func TestJoin(t *testing.T) {
	c1, c2 := nodeConfig(t, "n1"), nodeConfig(t, "n2")
	if _, err := InitCluster(t.Context(), c1, InitOptions{Slots: 2}); err != nil {
		t.Fatal(err)
	}
	id, err := peer.Load(c1.Node.Data)
	if err != nil {
		t.Fatal(err)
	}
	port, err := peer.Listen(c1.Node.Peer, id, peer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	var asked peer.JoinRequest
	go func() {
		served <- peer.ServeJoin(ctx, port.Listener(peer.ProtoJoin), id, func(_ context.Context, r peer.JoinRequest) (peer.JoinAccepted, error) {
			asked = r
			return peer.JoinAccepted{Members: []peer.Member{{Name: "n1", Address: port.Addr().String()}}}, nil
		}, quiet())
	}()
	token, tokenID, _, err := peer.NewToken(id.ClusterID(), id.CAFingerprint(), []string{port.Addr().String()}, "n2")
	if err != nil {
		t.Fatal(err)
	}
	joined, err := JoinCluster(ctx, c2, token)
	if err != nil || joined != id.ClusterID() {
		t.Fatalf("joined %q: %v", joined, err)
	}
	cancel()
	if err := errors.Join(<-served, port.Close()); err != nil {
		t.Error(err)
	}
	first, err := ReadFirstStart(c2.Node.Data)
	if err != nil {
		t.Fatal(err)
	}
	want := FirstStart{By: ByJoin, ServerID: JoinedServerID("n2", tokenID), Members: []peer.Member{{Name: "n1", Address: port.Addr().String()}}}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	if asked.Role != string(cluster.Voter) || asked.Address != "127.0.0.1:7" || JoinedServerID(asked.Name, asked.TokenID) != first.ServerID {
		t.Errorf("asked %+v", asked)
	}
	var refusal *Error
	if _, err := JoinCluster(t.Context(), c2, token); !errors.As(err, &refusal) || refusal.Exit != ExitNothing {
		t.Errorf("a second join: %v", err)
	}
	elsewhere, _, _, err := peer.NewToken(strings.Repeat("0", 32), id.CAFingerprint(), []string{"192.0.2.1:7400"}, "n2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := JoinCluster(t.Context(), c2, elsewhere); !errors.As(err, &refusal) || refusal.Exit != ExitRefused {
		t.Errorf("joining a second cluster: %v", err)
	}
	if _, err := JoinCluster(t.Context(), c2, "half a token"); !errors.As(err, &refusal) || refusal.Exit != ExitUsage {
		t.Errorf("a wrong token: %v", err)
	}
}

func (members) Remove(context.Context, RemoveRequest) (Removed, error) { return Removed{}, nil }
