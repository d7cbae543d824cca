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
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"mailnode/storage"
	"mailnode/storage/fair"
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

	provedMax = 20000 // remembered logins
)

// wrongRest is how long a client rests after a wrong password. A client that tries
// passwords on many connections so takes no core from others: it gets ten hashes per
// second, on a machine of many cores ten for every two of them.
const wrongRest = 100 * time.Millisecond

// waitingMax is how many checks may wait for their turn on a node: at one core's rate
// the last of them waits for about half a minute, and clients wait that long. Who is
// sent away comes again, and costs another TLS handshake.
const waitingMax = 4096

// Passwords hashes and proves passwords for all copies of a node. It does so a few at a
// time and in fair turns, so that a login storm takes bounded memory and CPU, and the
// client that makes it waits for itself. It remembers what was proved, so that a mobile
// client's reconnects cost nothing and wait for nobody: an HMAC of the stored hash and
// the password, under a key of this process. After a change of the password, or when
// the account is closed, it fits nothing any more.
type Passwords struct {
	turns  *fair.Turns
	hashes atomic.Uint64
	key    [32]byte
	decoy  string // a hash that no password fits

	mu     sync.Mutex // guards the two below
	proved map[[32]byte]*list.Element
	recent list.List // of [32]byte, newest first
}

// NewPasswords allows so many checks at a time.
func NewPasswords(parallel int) *Passwords {
	p := &Passwords{turns: fair.NewTurns(parallel, waitingMax), proved: map[[32]byte]*list.Element{}}
	rand.Read(p.key[:])
	var salt [argonSaltBytes]byte
	var key [argonKeyBytes]byte
	rand.Read(salt[:])
	rand.Read(key[:])
	p.decoy = phcString(salt[:], key[:])
	return p
}

// Load returns how many hashes were computed, and how many wait for their turn.
func (p *Passwords) Load() (hashes uint64, waiting int) { return p.hashes.Load(), p.turns.Waiting() }

// Hash makes a PHC string.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	if err := storage.CheckPassword(password); err != nil {
		return "", err
	}
	salt := make([]byte, argonSaltBytes)
	rand.Read(salt)
	key, err := p.derive(ctx, fair.Asker{}, password, salt, nil, argonPasses, argonMemoryKiB, argonLanes, argonKeyBytes)
	if err != nil {
		return "", err
	}
	return phcString(salt, key), nil
}

func phcString(salt, key []byte) string {
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemoryKiB, argonPasses, argonLanes, enc(salt), enc(key))
}

// composed is how a password is hashed: in NFC, because keyboards differ in how
// they write one character (RFC 8265, section 4.2.2). What is not UTF-8 stays as it
// came: no stored password fits it.
func composed(password string) []byte {
	if !utf8.ValidString(password) {
		return []byte(password)
	}
	return norm.NFC.Bytes([]byte(password))
}

// derive computes a hash in its turn. want is what it should be, nil when it is new.
func (p *Passwords) derive(ctx context.Context, who fair.Asker, password string, salt, want []byte, passes, memoryKiB uint32, lanes uint8, keyBytes uint32) ([]byte, error) {
	end, err := p.turns.Take(ctx, who)
	if err != nil {
		return nil, storage.Errorf(storage.ErrUnavailable, "check password: %w", err)
	}
	p.hashes.Add(1)
	got := argon2.IDKey(composed(password), salt, passes, memoryKiB, lanes, keyBytes)
	rest := time.Duration(0)
	if want != nil && subtle.ConstantTimeCompare(got, want) != 1 {
		rest = wrongRest
	}
	end(rest)
	return got, nil
}

// Prove proves a password against a PHC string; ErrAuth when it is wrong, and
// ErrUnavailable when too many wait or ctx ends. Without a PHC string every password
// is wrong, after the same work: nobody learns from the time that it takes whether
// there is such a user, or one who may log in.
func (p *Passwords) Prove(ctx context.Context, who fair.Asker, phc, password string) error {
	wrong := storage.Errorf(storage.ErrAuth, "wrong user name or password")
	if len(password) > storage.MaxPasswordBytes {
		return wrong
	}
	if phc == "" {
		phc = p.decoy
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
	got, err := p.derive(ctx, who, password, salt, want, passes, memoryKiB, lanes, uint32(len(want)))
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return wrong
	}
	p.remember(seen)
	return nil
}

// credential names a stored hash, which has a salt of its own: no two are the same.
func credential(phc string) storage.Credential {
	if phc == "" {
		return storage.Credential{}
	}
	sum := sha256.Sum256([]byte(phc))
	return storage.Credential(sum[:len(storage.Credential{})])
}

func (p *Passwords) remembers(k [32]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.proved[k]
	if e != nil {
		p.recent.MoveToFront(e)
	}
	return e != nil
}

func (p *Passwords) remember(k [32]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proved[k] == nil {
		p.proved[k] = p.recent.PushFront(k)
	}
	for p.recent.Len() > provedMax {
		delete(p.proved, p.recent.Remove(p.recent.Back()).([32]byte))
	}
}
