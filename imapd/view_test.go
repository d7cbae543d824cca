package imapd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"mailnode/storage"
)

// clientModel is what a client believes of its mailbox: it follows untagged
// responses to the letter.
type clientModel struct {
	uids  []string // by sequence number; "" until learned
	flags map[string]string
}

func (m *clientModel) apply(t *rapid.T, lines []string) {
	for _, line := range lines {
		var n int
		var what string
		if _, err := fmt.Sscanf(line, "* %d %s", &n, &what); err != nil {
			continue
		}
		switch what {
		case "EXISTS":
			if n < len(m.uids) {
				t.Fatalf("EXISTS went down from %d to %d", len(m.uids), n)
			}
			for len(m.uids) < n {
				m.uids = append(m.uids, "")
			}
		case "EXPUNGE":
			if n < 1 || n > len(m.uids) {
				t.Fatalf("%s with %d messages", line, len(m.uids))
			}
			m.uids = slices.Delete(m.uids, n-1, n)
		case "FETCH":
			_, rest, _ := strings.Cut(line, "(UID ")
			uid, rest, _ := strings.Cut(rest, " ")
			if n < 1 || n > len(m.uids) || m.uids[n-1] != "" && m.uids[n-1] != uid {
				t.Fatalf("%s, but the client knows %v", line, m.uids)
			}
			m.uids[n-1] = uid
			m.flags[uid] = rest
		}
	}
}

// TestViewModel: two sessions change one mailbox at random; each client, by what
// it was told alone, always knows which message has which number.
func TestViewModel(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.PerUserMax = 100_000 })
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		box := fmt.Sprintf("box%d", round)
		if _, err := b.store.CreateMailbox(context.Background(), b.users["alice"].ID, box, ""); err != nil {
			rt.Fatal(err)
		}
		clients := []*wireClient{b.login("alice"), b.login("alice")}
		models := make([]*clientModel, len(clients))
		do := func(i int, text string) {
			lines := clients[i].cmd(text)
			models[i].apply(rt, lines)
			verb := strings.Fields(text)[1]
			if slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, " EXPUNGE") }) &&
				(verb == "FETCH" || verb == "STORE" || verb == "SEARCH") {
				rt.Fatalf("EXPUNGE while %s runs: %q", verb, lines)
			}
		}
		for i := range clients {
			models[i] = &clientModel{flags: map[string]string{}}
			do(i, "s SELECT "+box)
		}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			i := rapid.IntRange(0, 1).Draw(rt, "session")
			n := rapid.IntRange(1, max(len(models[i].uids), 1)).Draw(rt, "n")
			switch op := rapid.IntRange(0, 7).Draw(rt, "op"); {
			case op < 2 || len(models[i].uids) == 0:
				do(i, "a APPEND "+box+" {6+}\r\nS: x\r\n")
			case op == 2:
				do(i, fmt.Sprintf(`a STORE %d +FLAGS (\Deleted)`, n))
			case op == 3:
				do(i, "a EXPUNGE")
			case op == 4:
				do(i, fmt.Sprintf(`a STORE %d:* FLAGS.SILENT ($k%d)`, n, n))
			case op == 5:
				do(i, fmt.Sprintf("a FETCH %d (UID FLAGS)", n))
			case op == 6:
				do(i, fmt.Sprintf("a MOVE %d %s", n, box))
			case op == 7:
				do(i, "a NOOP")
			}
		}
		for i := range clients {
			do(i, "n NOOP")
			do(i, "f UID FETCH 1:* (UID FLAGS)")
		}
		// The store shows a session's own flags at once, others' when durable: both
		// end the same after a change that waits for the disk.
		if len(models[0].uids) != len(models[1].uids) || !slices.Equal(models[0].uids, models[1].uids) {
			rt.Fatalf("clients differ: %v and %v", models[0].uids, models[1].uids)
		}
		for _, c := range clients {
			c.cmd("q LOGOUT")
			c.conn.Close()
		}
	})
}

func TestViewSpans(t *testing.T) {
	v := &view{uids: []storage.UID{3, 4, 5, 9, 12}}
	for _, tt := range []struct {
		in   string
		uid  bool
		want string
	}{
		{"1:2", false, "[{0 2}]"}, {"2,4:*", false, "[{1 2} {3 5}]"}, {"*", false, "[{4 5}]"}, {"6", false, "error"}, {"6:*", false, "error"}, {"*:6", false, "error"}, {"5:*", false, "[{4 5}]"}, {"*:1", false, "[{0 5}]"},
		{"1:4", true, "[{0 2}]"}, {"100:*", true, "[{4 5}]"}, {"6:8", true, "[]"}, {"4:9,12", true, "[{1 5}]"}, {"1:2", true, "[]"},
	} {
		d := newTestDecoder(tt.in)
		spans, err := v.spans(d.Set(), tt.uid)
		got := fmt.Sprint(spans)
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("spans(%s, uid %v) = %s, want %s", tt.in, tt.uid, got, tt.want)
		}
	}
}

// TestSetsOfAnEmptyMailbox: no number and no "*" is a message's (RFC 3501,
// section 9: seq-number), while UIDs may always be asked for.
func TestSetsOfAnEmptyMailbox(t *testing.T) {
	c := newBench(t, nil).login("alice")
	c.ok("a SELECT INBOX")
	for _, command := range []string{"FETCH %s FLAGS", "STORE %s +FLAGS (x)", "COPY %s Archive", "MOVE %s Archive", "SEARCH %s"} {
		for set, want := range map[string]string{"1:*": "OK", "*:1": "OK", "1": "BAD", "*": "BAD", "*:*": "BAD", "2:*": "BAD", "1:*,2": "BAD", "1:2": "BAD"} {
			c.want("b "+fmt.Sprintf(command, set), want)
			if !strings.HasPrefix(command, "SEARCH") { // in UID SEARCH, too, a bare set has sequence numbers
				want = "OK"
			}
			c.want("c UID "+fmt.Sprintf(command, set), want)
			c.ok("n NOOP")
		}
	}
	c.ok("d UID SEARCH UID *")
	c.ok("d UID EXPUNGE *")
}

// TestViewSharesUIDs: a view uses the store's array for as long as it says the
// same, and never changes it.
func TestViewSharesUIDs(t *testing.T) {
	store := make([]storage.UID, 0, 100)
	grow := func(uids ...storage.UID) []storage.UID {
		store = append(store, uids...)
		return slices.Clip(store)
	}
	message := func(uid storage.UID) []storage.Message { return []storage.Message{{UID: uid, ModSeq: 1}} }
	views := []*view{{}, {}}
	check := func(what string, shared bool, want ...storage.UID) {
		t.Helper()
		for i, v := range views {
			if !slices.Equal(v.uids, want) || v.shared != shared || shared && &v.uids[0] != &store[0] {
				t.Fatalf("%s: view %d has %v (shared %v), want %v (shared %v)", what, i, v.uids, v.shared, want, shared)
			}
		}
	}
	each := func(fn func(v *view)) {
		for _, v := range views {
			fn(v)
		}
	}
	first := grow(1, 2, 3)
	each(func(v *view) { v.uids, v.shared, v.maxUID = first, true, 3 })
	latest := grow(4)
	each(func(v *view) { v.take(storage.ChangeSet{Changed: message(4), UIDs: latest}) })
	check("after a delivery", true, 1, 2, 3, 4)
	each(func(v *view) { v.take(storage.ChangeSet{Changed: message(5)}) })
	check("after a delivery without the store's array", false, 1, 2, 3, 4, 5)
	latest = grow(5)
	each(func(v *view) { v.share(latest) })
	check("with the store's array again", true, 1, 2, 3, 4, 5)
	each(func(v *view) { v.remove([]storage.UID{2}, func(int) {}) })
	check("after an expunge", false, 1, 3, 4, 5)
	if !slices.Equal(store, []storage.UID{1, 2, 3, 4, 5}) {
		t.Fatalf("the store's array was changed to %v", store)
	}
	each(func(v *view) { v.share(latest) })
	check("an array that says something else", false, 1, 3, 4, 5)
	store = nil
	latest = grow(1, 3, 4, 5)
	each(func(v *view) { v.share(latest) })
	check("after the store's expunge", true, 1, 3, 4, 5)
}
