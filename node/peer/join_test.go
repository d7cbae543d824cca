package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// office authorizes joiners as a node does, with its token table in memory.
type office struct {
	mu     sync.Mutex
	tokens map[string][32]byte
	used   map[string]string // token ID → key
	asked  []JoinRequest
	busy   bool
	others []Member // of the cluster, beside n1
}

func (o *office) authorize(_ context.Context, r JoinRequest) (JoinAccepted, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, r)
	if o.busy {
		return JoinAccepted{}, fmt.Errorf("no leader: %w", ErrAskAnother)
	}
	hash, ok := o.tokens[r.TokenID]
	key, used := o.used[r.TokenID]
	if !ok || hash != r.SecretHash || used && key != r.Key {
		return JoinAccepted{}, errors.New("token is unknown, or was used already: `mailnode cluster token NODE` makes a new one")
	}
	o.used[r.TokenID] = r.Key
	return JoinAccepted{Members: append([]Member{{Name: "n1", Address: "192.0.2.1:7400"}}, o.others...), Admits: r.Role == "voter"}, nil
}

// startOffice serves joiners of id's cluster until the test ends.
func startOffice(t *testing.T, id *Identity) (*office, string) {
	t.Helper()
	p, err := Listen("127.0.0.1:0", id, Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := &office{tokens: make(map[string][32]byte), used: make(map[string]string)}
	ended := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ended <- ServeJoin(ctx, p.Listener(ProtoJoin), id, o.authorize, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("ServeJoin: %v", err)
		}
		p.Close()
	})
	return o, p.Addr().String()
}

// issue makes a token that the office knows.
func (o *office) issue(t *testing.T, id *Identity, name slot.NodeName, seeds ...string) string {
	t.Helper()
	token, tokenID, hash, err := NewToken(id.ClusterID(), id.CAFingerprint(), seeds, name)
	if err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tokens[tokenID] = hash
	return token
}

func joiner(name slot.NodeName) JoinRequest {
	return JoinRequest{Name: name, Address: "192.0.2.2:7400", Zone: "rack2", Standby: true, Role: "voter"}
}

func TestJoin(t *testing.T) {
	n1 := newCluster(t)
	if err := n1.SetGeneration(4); err != nil {
		t.Fatal(err)
	}
	o, address := startOffice(t, n1)
	token := o.issue(t, n1, "n2", address)
	dir := t.TempDir()
	n2, accepted, err := Join(t.Context(), token, dir, joiner("n2"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(accepted.Members) != 1 || accepted.Members[0].Name != "n1" {
		t.Errorf("accepted with %+v", accepted)
	}
	asked := o.asked[0]
	if asked.Name != "n2" || asked.Address != "192.0.2.2:7400" || asked.Zone != "rack2" || !asked.Standby || asked.Role != "voter" {
		t.Errorf("asked with %+v", asked)
	}
	loaded, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Name() != "n2" || loaded.Generation() != 4 || loaded.ClusterID() != n1.ClusterID() || n2.Generation() != 4 {
		t.Errorf("loaded %q of generation %d", loaded.Name(), loaded.Generation())
	}
	s := startServer(t, n1, Options{})
	c, err := NewDialer(loaded, Options{}).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
	if err != nil {
		t.Fatalf("the new member is refused: %v", err)
	}
	c.Close()

	// The new member is a voter with mail and holds the CA's key: it can admit the next node.
	o2, address2 := startOffice(t, loaded)
	if _, _, err := Join(t.Context(), o2.issue(t, loaded, "", address2), t.TempDir(), joiner("n3"), Options{}); err != nil {
		t.Errorf("join through the second member: %v", err)
	}

	dir = t.TempDir()
	_, _, err = Join(t.Context(), token, dir, joiner("n2"), Options{})
	if err == nil || !strings.Contains(err.Error(), "was used already") {
		t.Errorf("a used token: %v", err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNoCluster) {
		t.Errorf("a refused joiner left an identity: %v", err)
	}
}

// TestJoinLargestCluster: the answer has room for as many members as a cluster may
// have, with the longest names and addresses.
func TestJoinLargestCluster(t *testing.T) {
	if membersMax != cluster.MaxMembers {
		t.Errorf("an answer has room for %d members, a cluster may have %d", membersMax, cluster.MaxMembers)
	}
	n1 := newCluster(t)
	o, address := startOffice(t, n1)
	for i := range cluster.MaxMembers - 2 {
		name := fmt.Sprintf("%0*d", NameMax, i)
		o.others = append(o.others, Member{slot.NodeName(name), strings.Repeat("x", addressMax-len(":65535")) + ":65535"})
	}
	_, got, err := Join(t.Context(), o.issue(t, n1, "n2", address), t.TempDir(), joiner("n2"), Options{})
	if err != nil || len(got.Members) != cluster.MaxMembers-1 {
		t.Errorf("%d members, %v", len(got.Members), err)
	}
}

// TestCAKeyStaysOnVotersWithMail: a witness joins, is believed by the others, and
// has nothing with which it could let anybody in.
func TestCAKeyStaysOnVotersWithMail(t *testing.T) {
	n1 := newCluster(t)
	o, address := startOffice(t, n1)
	dir := t.TempDir()
	r := joiner("w1")
	r.Role = "witness"
	if _, _, err := Join(t.Context(), o.issue(t, n1, "w1", address), dir, r, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, clusterFolder, caKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the CA's key lies on a witness: %v", err)
	}
	w1, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, n1, Options{})
	c, err := NewDialer(w1, Options{}).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
	if err != nil {
		t.Fatalf("the witness is refused: %v", err)
	}
	c.Close()
	o2, address2 := startOffice(t, w1)
	token := o2.issue(t, n1, "n3", address2)
	if _, _, err := Join(t.Context(), token, t.TempDir(), joiner("n3"), Options{}); err == nil || !strings.Contains(err.Error(), ErrAskAnother.Error()) || len(o2.asked) != 0 {
		t.Errorf("a witness was asked to let a node in: %v, %d decisions", err, len(o2.asked))
	}
}

// TestJoinIsRepeated: whoever has not heard the answer asks again with the same
// token, and gets it: the key was on disk before the first question.
func TestJoinIsRepeated(t *testing.T) {
	n1 := newCluster(t)
	o, address := startOffice(t, n1)
	token, dir := o.issue(t, n1, "n2", address), t.TempDir()
	first, _, err := Join(t.Context(), token, dir, joiner("n2"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	// As after a crash between the answer and the identity.
	key, err := encodeKey(first.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, clusterFolder)), os.WriteFile(filepath.Join(dir, joinKeyFile), key, 0o600)); err != nil {
		t.Fatal(err)
	}
	again, _, err := Join(t.Context(), token, dir, joiner("n2"), Options{})
	if err != nil || !again.key.Equal(first.key) {
		t.Errorf("the same key was not let in again: %v", err)
	}
	if len(o.asked) != 2 || o.asked[0].Key != o.asked[1].Key {
		t.Errorf("asked with %+v", o.asked)
	}
	if _, err := os.Stat(filepath.Join(dir, joinKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the draft of the key is left over: %v", err)
	}
}

func TestJoinRefused(t *testing.T) {
	n1 := newCluster(t)
	o, address := startOffice(t, n1)
	other, err := Init(t.TempDir(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	_, otherAddress := startOffice(t, other)
	unknown, _, _, err := NewToken(n1.ClusterID(), n1.CAFingerprint(), []string{address}, "")
	if err != nil {
		t.Fatal(err)
	}
	member := t.TempDir()
	if _, err := Init(member, "n9"); err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		name, token, dir string
		node             slot.NodeName
		asked            bool
		want             string
	}{
		{"wrong secret", unknown, t.TempDir(), "n2", true, "token is unknown"},
		{"another node's token", o.issue(t, n1, "n3", address), t.TempDir(), "n2", false, `the token is for node "n3"`},
		{"another cluster answers", o.issue(t, n1, "", otherAddress), t.TempDir(), "n2", false, "not of the cluster that made the token"},
		{"a member already", o.issue(t, n1, "", address), member, "n2", false, "belongs to a cluster already"},
		{"bad name", o.issue(t, n1, "", address), t.TempDir(), "N2", false, "check node name"},
		{"cut token", unknown[:40], t.TempDir(), "n2", false, "cut off"},
	}
	for _, row := range rows {
		o.asked = nil
		_, _, err := Join(t.Context(), row.token, row.dir, joiner(row.node), Options{})
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
		if (len(o.asked) > 0) != row.asked {
			t.Errorf("%s: asked %d times", row.name, len(o.asked))
		}
	}
}

func TestJoinPassesOverSeeds(t *testing.T) {
	n1 := newCluster(t)
	busy, busyAddress := startOffice(t, n1)
	busy.busy = true
	o, address := startOffice(t, newMember(t, n1, "n2"))
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deadAddress := dead.Addr().String()
	dead.Close()
	if _, _, err := Join(t.Context(), o.issue(t, n1, "n3", deadAddress, busyAddress, address), t.TempDir(), joiner("n3"), Options{}); err != nil {
		t.Errorf("third seed: %v", err)
	}
	_, _, err = Join(t.Context(), o.issue(t, n1, "n3", deadAddress, busyAddress), t.TempDir(), joiner("n3"), Options{})
	if err == nil || !strings.Contains(err.Error(), deadAddress) || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("no seed decides: %v", err)
	}
}

// TestJoinWithoutAnswer: a member that dies before it answers leaves no
// identity, the key for the next try, and a clear word about the token.
func TestJoinWithoutAnswer(t *testing.T) {
	n1 := newCluster(t)
	p, err := Listen("127.0.0.1:0", n1, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := p.Listener(ProtoJoin).Accept()
		if err != nil {
			return
		}
		var wire joinWire
		if err := readFrame(c, magicJoin(), &wire, joinRequestMax); err != nil {
			t.Error(err)
		}
		c.(*Conn).NetConn().Close()
	}()
	token, _, _, err := NewToken(n1.ClusterID(), n1.CAFingerprint(), []string{p.Addr().String()}, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, _, err = Join(t.Context(), token, dir, joiner("n2"), Options{})
	if err == nil || !strings.Contains(err.Error(), "join again with the same token") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNoCluster) {
		t.Errorf("Load: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, joinKeyFile)); err != nil {
		t.Errorf("the key of the first try is gone: %v", err)
	}
	<-ended
}

// TestJoinServerJudgesRequests: what is wrong with a request is found before
// the token is used up.
func TestJoinServerJudgesRequests(t *testing.T) {
	n1 := newCluster(t)
	never := func(context.Context, JoinRequest) (JoinAccepted, error) {
		t.Error("the authorizer was asked")
		return JoinAccepted{}, nil
	}
	for _, wire := range []joinWire{
		{Name: "n2", Address: "a:1"},
		{Name: "n2", Address: "a:1", CSR: []byte("x")},
		{Name: "../n2", Address: "a:1"},
		{Name: "n2", Address: "nowhere"},
		{Name: "n2", Address: "a:1", Zone: strings.Repeat("z", zoneMax+1)},
	} {
		if _, err := decideJoin(t.Context(), wire, n1, never); err == nil {
			t.Errorf("accepted %+v", wire)
		}
	}
}

func TestToken(t *testing.T) {
	n1 := newCluster(t)
	seeds := []string{"n1.example.org:7400", "[2001:db8::1]:7400"}
	printed, id, hash, err := NewToken(n1.ClusterID(), n1.CAFingerprint(), seeds, "n2")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseToken("  " + printed[:50] + "\r\n " + printed[50:] + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != id || got.Name != "n2" || got.Cluster != n1.ClusterID() || got.CA != n1.CAFingerprint() || len(got.Seeds) != 2 || hash == ([32]byte{}) {
		t.Errorf("got %+v", got)
	}
	for n := range printed {
		_, err := ParseToken(printed[:n])
		if err == nil || n > 0 && !strings.Contains(err.Error(), "cut off") {
			t.Errorf("cut to %d characters: %v", n, err)
		}
	}
	for i := range printed {
		for _, c := range []byte("Aa0_-!") {
			if printed[i] == c {
				continue
			}
			typo := []byte(printed)
			typo[i] = c
			if _, err := ParseToken(string(typo)); err == nil {
				t.Errorf("character %d changed to %q: accepted", i, c)
			}
		}
	}
	if _, err := ParseToken(printed + "A"); err == nil {
		t.Error("a longer token was accepted")
	}
	for _, bad := range [][]string{nil, {"n1"}, make([]string, SeedsMax+1)} {
		if _, _, _, err := NewToken(n1.ClusterID(), n1.CAFingerprint(), bad, ""); err == nil {
			t.Errorf("seeds %q were accepted", bad)
		}
	}
}

func FuzzToken(f *testing.F) {
	ca := Fingerprint(strings.Repeat("ab", 32))
	printed, _, _, err := NewToken(strings.Repeat("0", 32), ca, []string{"a:1"}, "n2")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(printed)
	f.Add(printed[:10])
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err == nil && token.check() != nil {
			t.Errorf("accepted %+v", token)
		}
	})
}

func FuzzHello(f *testing.F) {
	var b bytes.Buffer
	if err := writeHello(&b, Hello{Cluster: "c", Generation: 1, Name: "n1", Version: 1, Oldest: 1, Features: []string{"x"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:14])
	f.Add([]byte("MNH1\x00\x00\x00\x02\x00\x00\x00\x00{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := readHello(bytes.NewReader(text))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeHello(&again, h); err == nil {
			if _, err := readHello(&again); err != nil {
				t.Errorf("%+v does not survive: %v", h, err)
			}
		}
	})
}

// FuzzClusterFile: what decodes is exactly what encode writes, or an equal form
// with its own right checksum.
func FuzzClusterFile(f *testing.F) {
	f.Add(clusterRecord{Format: 1, Cluster: "c", Name: "n1", Generation: 2}.encode())
	f.Add([]byte("{}\ncrc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := decodeClusterRecord(text)
		if err != nil {
			return
		}
		if again, err := decodeClusterRecord(r.encode()); err != nil || again != r {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

func TestDraftOfAnotherIsNoIdentity(t *testing.T) {
	n1 := newCluster(t)
	o, address := startOffice(t, n1)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, clusterFolder+".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Join(t.Context(), o.issue(t, n1, "", address), dir, joiner("n2"), Options{}); err != nil {
		t.Errorf("join over what a crash left: %v", err)
	}
}

// TestJoinerJudgesAnswers: a joiner takes only an answer in which everything
// fits its token and its key.
func TestJoinerJudgesAnswers(t *testing.T) {
	n1, other := newCluster(t), newCluster(t)
	printed, _, _, err := NewToken(n1.ClusterID(), n1.CAFingerprint(), []string{"a:1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	token, err := ParseToken(printed)
	if err != nil {
		t.Fatal(err)
	}
	answerOf := func(from *Identity, holder *Identity) joinAnswer {
		key, err := encodeKey(from.ca.key)
		if err != nil {
			t.Fatal(err)
		}
		return joinAnswer{Cluster: n1.cluster, Generation: 1, CA: encodeCert(from.ca.cert), CAKey: key, Cert: encodeCert(holder.cert)}
	}
	n2 := newMember(t, n1, "n2")
	// A CA of a stranger that claims the right cluster.
	forged := newMember(t, &Identity{cluster: n1.cluster, ca: other.ca, generation: 1}, "n2")
	rows := []struct {
		name   string
		answer joinAnswer
		holder *Identity // whose key the joiner has
		ok     bool
	}{
		{"right", answerOf(n1, n2), n2, true},
		{"without the CA's key", func() joinAnswer { a := answerOf(n1, n2); a.CAKey = nil; return a }(), n2, true},
		{"another CA's key", func() joinAnswer { a := answerOf(n1, n2); a.CAKey = answerOf(other, forged).CAKey; return a }(), n2, false},
		{"another CA", answerOf(other, forged), forged, false},
		{"a certificate for another key", answerOf(n1, n2), newMember(t, n1, "n2"), false},
		{"a certificate for another name", answerOf(n1, newMember(t, n1, "n3")), n2, false},
		{"another cluster", func() joinAnswer { a := answerOf(n1, n2); a.Cluster = other.cluster; return a }(), n2, false},
		{"no generation", func() joinAnswer { a := answerOf(n1, n2); a.Generation = 0; return a }(), n2, false},
		{"nothing", joinAnswer{}, n2, false},
	}
	for _, row := range rows {
		id := &Identity{cluster: token.Cluster, name: "n2", key: row.holder.key}
		err := id.adopt(row.answer, token)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// Strangers who shake hands and ask nothing keep nobody from joining.
func TestJoinBesideSilentStrangers(t *testing.T) {
	n1 := newCluster(t)
	o, address := startOffice(t, n1)
	for range joinersMax + 1 {
		c, err := tls.Dial("tcp", address, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{ProtoJoin}, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, _, err := Join(t.Context(), o.issue(t, n1, "n2", address), t.TempDir(), joiner("n2"), Options{}); err != nil {
		t.Fatal(err)
	}
}
