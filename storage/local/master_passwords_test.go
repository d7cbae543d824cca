package local

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailnode/storage"
	"mailnode/storage/fair"
)

// TestPasswordsTakeTheSameWork: one hash for a wrong password, for an account that
// nobody may log in to and for none, at every length; none for one that was proved.
func TestPasswordsTakeTheSameWork(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	ann, ben := account(t, m, "ann@example.test"), account(t, m, "ben@example.test")
	if err := m.SetDisabled(t.Context(), ben.ID, true); err != nil {
		t.Fatal(err)
	}
	p := s.o.Passwords
	work := func(prove func() error, want error) (hashes uint64) {
		t.Helper()
		before, _ := p.Load()
		if err := prove(); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		after, _ := p.Load()
		return after - before
	}
	for _, password := range []string{"x", "pw\x00", "not UTF-8: \xe4", strings.Repeat("x", storage.MaxPasswordBytes)} {
		try := storage.Attempt{Password: password}
		for who, got := range map[string]uint64{
			"a user":          work(func() error { return second(m.Authenticate(t.Context(), ann.ID, try)) }, storage.ErrAuth),
			"a disabled user": work(func() error { return second(m.Authenticate(t.Context(), ben.ID, try)) }, storage.ErrAuth),
			"nobody":          work(func() error { return p.Prove(t.Context(), fair.Asker{}, "", password) }, storage.ErrAuth),
		} {
			if got != 1 {
				t.Errorf("%.20q for %s took %d hashes, want 1", password, who, got)
			}
		}
	}
	right := storage.Attempt{Password: "pw"}
	login := func() error { return second(m.Authenticate(t.Context(), ann.ID, right)) }
	if got := work(login, nil) + work(login, nil); got != 1 {
		t.Errorf("two logins took %d hashes, want 1", got)
	}
	if got := work(func() error { return second(m.Authenticate(t.Context(), ben.ID, right)) }, storage.ErrAuth); got != 1 {
		t.Errorf("the right password of a disabled user took %d hashes, want 1", got)
	}
	if !strings.HasPrefix(p.decoy, "$argon2id$v=19$m=7168,t=1,p=1$") || len(p.decoy) != len(mustHash(t, p)) {
		t.Errorf("what nobody's password is compared with: %s", p.decoy)
	}
}

func mustHash(t *testing.T, p *Passwords) string {
	t.Helper()
	phc, err := p.Hash(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	return phc
}

// TestRememberedLogin: a password that was proved waits for no turn, and is
// forgotten with a new password, and while the account is closed.
func TestRememberedLogin(t *testing.T) {
	s := openSlot(t, options(t, newFS(t)))
	m := serve(t, s, 1, 0)
	ann := account(t, m, "ann@example.test")
	login := func(password string) error {
		return second(m.Authenticate(t.Context(), ann.ID, storage.Attempt{Password: password, Client: "home"}))
	}
	if err := login("pw"); err != nil {
		t.Fatal(err)
	}
	p := s.o.Passwords
	var ends []func(time.Duration)
	for _, who := range []string{"a", "b"} { // NewPasswords(2)
		end, err := p.turns.Take(t.Context(), fair.Asker{Client: who, Account: who})
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if err := login("pw"); err != nil { // it would hang
		t.Errorf("a remembered login: %v", err)
	}
	for _, end := range ends {
		end(0)
	}
	for _, change := range []struct {
		do   func() error
		want error // of the old password, afterwards
	}{
		{func() error { return m.SetDisabled(t.Context(), ann.ID, true) }, storage.ErrAuth},
		{func() error { return m.SetDisabled(t.Context(), ann.ID, false) }, nil},
		{func() error { return m.SetPassword(t.Context(), ann.ID, "new") }, storage.ErrAuth},
		{func() error { return m.DeleteAccount(t.Context(), ann.ID) }, storage.ErrNotFound},
	} {
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		if err := login("pw"); !errors.Is(err, change.want) {
			t.Errorf("the old password: %v, want %v", err, change.want)
		}
	}
}

// TestPasswordsBusy: when too many wait, the error tells that, and never that the
// password is wrong.
func TestPasswordsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waitMax = 3
		p := NewPasswords(1)
		p.turns = fair.NewTurns(1, waitMax)
		end, err := p.turns.Take(t.Context(), fair.Asker{})
		if err != nil {
			t.Fatal(err)
		}
		evil := fair.Asker{Client: "evil"}
		told := make(chan error, waitMax)
		for range waitMax {
			go func() { told <- p.Prove(t.Context(), evil, "", "x") }()
		}
		synctest.Wait()
		if err := p.Prove(t.Context(), evil, "", "x"); !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrAuth) || !errors.Is(err, fair.ErrBusy) {
			t.Errorf("one too many was told %v", err)
		}
		if _, waiting := p.Load(); waiting != waitMax {
			t.Errorf("%d wait, want %d", waiting, waitMax)
		}
		end(0)
		for range waitMax {
			if err := <-told; !errors.Is(err, storage.ErrAuth) {
				t.Errorf("a login that waited got %v", err)
			}
		}
	})
}

// TestPasswordComposition: one character is one, however a keyboard composes it;
// bytes that are no UTF-8 are compared as they are, and cannot be set.
func TestPasswordComposition(t *testing.T) {
	m := serve(t, openSlot(t, options(t, newFS(t))), 1, 0)
	ann := account(t, m, "ann@example.test")
	for _, bad := range []string{"", "p\xe4ss", "a\x00b", "a\rb", "a\nb", strings.Repeat("x", storage.MaxPasswordBytes+1)} {
		if err := m.SetPassword(t.Context(), ann.ID, bad); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("set %.10q: %v, want ErrInvalid", bad, err)
		}
	}
	for set, tries := range map[string]map[string]bool{
		"caf\u00e9":   {"caf\u00e9": true, "cafe\u0301": true, "cafe": false, "caf\xe9": false, "caf\ufffd": false},
		"cafe\u0301!": {"caf\u00e9!": true, "cafe\u0301!": true},
		"\u212b":      {"\u00c5": true, "A\u030a": true, "A": false},
		"\ufb01":      {"fi": false}, // NFC, not NFKC: nothing is lost
	} {
		if err := m.SetPassword(t.Context(), ann.ID, set); err != nil {
			t.Fatal(err)
		}
		for password, right := range tries {
			if _, err := m.Authenticate(t.Context(), ann.ID, storage.Attempt{Password: password}); (err == nil) != right {
				t.Errorf("set %q, tried %q: %v", set, password, err)
			}
		}
	}
}

// TestCredential: it changes with each password, also with the same one, is what
// Authenticate proves, and is none while the account is disabled.
func TestCredential(t *testing.T) {
	m := serve(t, openSlot(t, options(t, newFS(t))), 1, 0)
	ann := account(t, m, "ann@example.test")
	told, stop := m.Watch(storage.Ref{})
	defer stop()
	var seen []storage.Credential
	for range 2 {
		if err := m.SetPassword(t.Context(), ann.ID, "same"); err != nil {
			t.Fatal(err)
		}
		<-told
		proved, err := m.Authenticate(t.Context(), ann.ID, storage.Attempt{Password: "same"})
		a, err2 := m.Account(t.Context(), ann.ID)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if proved != a.Credential || proved == (storage.Credential{}) {
			t.Errorf("proved %x, the account has %x", proved, a.Credential)
		}
		seen = append(seen, proved)
	}
	if seen[0] == seen[1] {
		t.Error("a new password has the old credential")
	}
	if err := m.SetDisabled(t.Context(), ann.ID, true); err != nil {
		t.Fatal(err)
	}
	<-told
	if a, err := m.Account(t.Context(), ann.ID); err != nil || a.Credential != (storage.Credential{}) {
		t.Errorf("disabled: %x, %v", a.Credential, err)
	}
	if _, err := m.CreateMailbox(t.Context(), ann.ID, "x", ""); err != nil { // it changes the account's record too
		t.Fatal(err)
	}
	select {
	case <-told:
		t.Error("a new mailbox made everybody look whose sessions must end")
	default:
	}
}
