package rendezvous

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/wice-go/wice-go/proto/key"
)

// realm is TURN's (RFC 8489, section 9.2).
const realm = "wice"

// credentials makes and checks TURN credentials as in draft-uberti-behave-turn-rest-00: the username is the time of expiry and a
// name, here the WireGuard public key, and the password is its HMAC. So the server remembers nothing, and they outlive a restart.
type credentials struct{ secret []byte }

func newCredentials(identity crypto.PrivKey) (*credentials, error) {
	raw, err := identity.Raw()
	if err != nil {
		return nil, err
	}
	secret, err := hkdf.Key(sha256.New, raw, nil, "wice turn credentials v1", sha256.Size)
	return &credentials{secret}, err
}

// issue returns credentials for a key that was proved.
func (c *credentials) issue(k key.Public, expires time.Time) (username, password string) {
	username = strconv.FormatInt(expires.Unix(), 10) + ":" + k.String()
	return username, c.password(username)
}

// password uses SHA-1 because the draft does; HMAC does not need more of it.
func (c *credentials) password(username string) string {
	mac := hmac.New(sha1.New, c.secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// parseUsername returns what a username says, which is not proved by that.
func parseUsername(s string) (k key.Public, expires time.Time, ok bool) {
	before, after, ok := strings.Cut(s, ":")
	if !ok {
		return key.Public{}, time.Time{}, false
	}
	seconds, err := strconv.ParseInt(before, 10, 64)
	if err != nil {
		return key.Public{}, time.Time{}, false
	}
	k, err = key.ParsePublic(after)
	return k, time.Unix(seconds, 0), err == nil
}
