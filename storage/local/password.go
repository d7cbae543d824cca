package local

import (
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/argon2"

	"mailnode/storage"
)

// The argon2id parameters of new hashes: 7 MiB, one pass, one lane. On two
// cores a check takes 6 to 7 ms (docs/GUARANTEES.md). Hashes name their own
// parameters, so these may change.
const (
	argonPasses    = 1
	argonMemoryKiB = 7 << 10
	argonLanes     = 1
	argonSaltBytes = 16
	argonKeyBytes  = 32
	// maxArgonMemoryKiB bounds what a stored hash may ask for.
	maxArgonMemoryKiB = 1 << 20

	verifiedMax = 20000 // remembered logins
)

// Passwords hashes and checks passwords for all copies of a node: only a few at
// a time, so that a login storm takes bounded memory and CPU, and remembering
// what was verified, so that a mobile client's reconnects cost nothing. What is
// remembered is an HMAC under a key of this process.
type Passwords struct {
	slots chan struct{} // one token per check that may run
	key   [32]byte

	mu       sync.Mutex // guards the two below
	verified map[[32]byte]*list.Element
	recent   list.List // of [32]byte, newest first
}

// NewPasswords allows so many checks at a time.
func NewPasswords(parallel int) *Passwords {
	p := &Passwords{slots: make(chan struct{}, parallel), verified: map[[32]byte]*list.Element{}}
	rand.Read(p.key[:])
	return p
}

// Hash makes a PHC string.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	if password == "" || len(password) > storage.MaxPasswordBytes {
		return "", storage.Errorf(storage.ErrInvalid, "password: want 1 to %d bytes", storage.MaxPasswordBytes)
	}
	salt := make([]byte, argonSaltBytes)
	rand.Read(salt)
	key, err := p.derive(ctx, password, salt, argonPasses, argonMemoryKiB, argonLanes, argonKeyBytes)
	if err != nil {
		return "", err
	}
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemoryKiB, argonPasses, argonLanes, enc(salt), enc(key)), nil
}

func (p *Passwords) derive(ctx context.Context, password string, salt []byte, passes, memoryKiB uint32, lanes uint8, keyBytes uint32) ([]byte, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, storage.Errorf(storage.ErrUnavailable, "check password: %w", ctx.Err())
	}
	return argon2.IDKey([]byte(password), salt, passes, memoryKiB, lanes, keyBytes), nil
}

// Check proves a password against a PHC string; ErrAuth when it is wrong.
func (p *Passwords) Check(ctx context.Context, phc, password string) error {
	wrong := storage.Errorf(storage.ErrAuth, "wrong user name or password")
	if phc == "" || len(password) > storage.MaxPasswordBytes {
		return wrong
	}
	mac := hmac.New(sha256.New, p.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(phc), phc, password)
	seen := [32]byte(mac.Sum(nil))
	if p.remembers(seen) {
		return nil
	}
	var version, memoryKiB, passes uint32
	var lanes uint8
	var rest string
	if n, _ := fmt.Sscanf(phc, "$argon2id$v=%d$m=%d,t=%d,p=%d$%s", &version, &memoryKiB, &passes, &lanes, &rest); n != 5 ||
		version != argon2.Version || memoryKiB > maxArgonMemoryKiB || passes == 0 || passes > 64 || lanes == 0 {
		return storage.Errorf(storage.ErrCorrupt, "check password: the stored hash is not an argon2id string: set a new password")
	}
	s, k, _ := strings.Cut(rest, "$")
	salt, err1 := base64.RawStdEncoding.DecodeString(s)
	want, err2 := base64.RawStdEncoding.DecodeString(k)
	if err1 != nil || err2 != nil || len(want) < 16 {
		return storage.Errorf(storage.ErrCorrupt, "check password: the stored hash is damaged: set a new password")
	}
	got, err := p.derive(ctx, password, salt, passes, memoryKiB, lanes, uint32(len(want)))
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return wrong
	}
	p.remember(seen)
	return nil
}

func (p *Passwords) remembers(k [32]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.verified[k]
	if e != nil {
		p.recent.MoveToFront(e)
	}
	return e != nil
}

func (p *Passwords) remember(k [32]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verified[k] == nil {
		p.verified[k] = p.recent.PushFront(k)
	}
	for p.recent.Len() > verifiedMax {
		delete(p.verified, p.recent.Remove(p.recent.Back()).([32]byte))
	}
}
