package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What is compared of answers in JSON: everything, in the order of the names, and whether a number is text, but for what
// stands here.

// Who answered, and numbers of the storage below: only that they are there.
var presentInJSON = []string{"cluster_id", "member_id", "raft_term", "raftTerm", "raftIndex", "raftAppliedIndex", "leader",
	"dbSize", "dbSizeInUse", "memberID", "peerURLs", "clientURLs", "hash", "blob", "compact_revision"}

// Of the status alone: the row "status" compares them.
var leftOutOfJSON = []string{"storageVersion", "dbSizeQuota"}

var revisionsInJSON = []string{"revision", "create_revision", "mod_revision", "hash_revision", "rev"}

// Two JSON libraries find the same faults and have words of their own for them.
var jsonFaults = regexp.MustCompile(`^(Failed to decode request: )?(proto:[ \x{a0}]|invalid character |the body is not the JSON of a )`)

// json prints an answer.
func (t *T) json(text []byte) string {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil || decoder.More() {
		return strconv.Quote(t.plain(string(text)))
	}
	return t.jsonValue("", value)
}

func (t *T) jsonValue(name string, value any) string {
	switch value := value.(type) {
	case map[string]any:
		var fields []string
		_, isMember := value["clientURLs"]
		for field, value := range value {
			if isMember && (field == "ID" || field == "name") {
				value = "+"
			}
			if !slices.Contains(leftOutOfJSON, field) {
				fields = append(fields, field+":"+t.jsonValue(field, value))
			}
		}
		slices.Sort(fields)
		return "{" + strings.Join(fields, " ") + "}"
	case []any:
		var elements []string
		for _, element := range value {
			elements = append(elements, t.jsonValue(name, element))
		}
		return "[" + strings.Join(elements, " ") + "]"
	case string:
		return strconv.Quote(t.jsonScalar(name, value))
	case json.Number:
		return t.jsonScalar(name, value.String())
	default:
		return fmt.Sprint(value)
	}
}

func (t *T) jsonScalar(name, text string) string {
	number, err := strconv.ParseInt(text, 10, 64)
	isNumber := err == nil
	switch {
	case slices.Contains(presentInJSON, name):
		return "+"
	case slices.Contains(revisionsInJSON, name) && isNumber:
		return t.revision(number)
	case (name == "ID" || name == "lease") && isNumber:
		return t.leaseName(number)
	case name == "TTL" && isNumber:
		for _, granted := range t.granted {
			if number > 0 && (number == granted || number == granted-1) {
				return fmt.Sprintf("~%d", granted)
			}
		}
	case name == "version" && versions.MatchString(text):
		return "X.Y.Z"
	case name == "message" && jsonFaults.MatchString(text):
		return "<no such message>"
	}
	return t.plain(text)
}
