"""Texts and lists of words as a network reads them: tokenised with a tokenizer of `transformers`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data.split import InputKind, RawRow
from nas.errors import UserError
from nas.sentences import quoted
from search_spaces.arrays import IntArray

_TEXT_INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows in one flat array: row i is `flat[offsets[i]:offsets[i + 1]]`.

    Args:
        flat: token ids of all rows, concatenated.
        offsets: start of each row in `flat`, followed by the total length, (n + 1,).
        pad: id of the padding token.
        words: for each token in `flat`, the index of the word that it begins, or -1 if it begins none. None when the
            rows are texts rather than lists of words.
        truncated: number of rows that were longer than the limit.
    """

    flat: npt.NDArray[np.int32]
    offsets: IntArray
    pad: int
    words: npt.NDArray[np.int32] | None = None
    truncated: int = 0

    @property
    def lengths(self) -> IntArray:
        """Number of tokens of each row (n,)."""
        return np.diff(self.offsets)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` of the given rows, (rows, longest), int64."""
        ids = self._padded(self.flat, indices, self.pad)
        lengths = self.lengths[np.asarray(indices, dtype=np.int64)]
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def first_words(self, indices: npt.ArrayLike) -> IntArray:
        """For each token, the index of the word that it begins, or -1; shape (rows, longest).

        Raises:
            UserError: the rows are texts, not lists of words.
        """
        if self.words is None:
            raise UserError("token classification needs rows of words, got texts that are not cut into words")
        return self._padded(self.words, indices, -1)

    def _padded(self, flat: npt.NDArray[np.int32], indices: npt.ArrayLike, pad: int) -> IntArray:
        rows = [flat[self.offsets[i] : self.offsets[i + 1]] for i in np.asarray(indices, dtype=np.int64)]
        padded = np.full((len(rows), max(map(len, rows), default=0)), pad, dtype=np.int64)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
        return padded


@dataclass(frozen=True)
class TextPreprocessor:
    """Tokenises texts or lists of words with a tokenizer of `transformers`; padding is on the right.

    Args:
        tokenizer: made to give a network's inputs alone: many give token types, for which an ONNX file has no place.
        end: id of the token of the end, where the network decides by it and so must find it once in every text: names
            of special tokens that stand in a text (`</s>`, which HTML has too) are then words like others.
    """

    tokenizer: Any
    end: int | None = None

    def __post_init__(self) -> None:
        self._tell("model_input_names", list(_TEXT_INPUTS))
        if self.end is not None:
            self._tell("split_special_tokens", True)

    def _tell(self, name: str, value: Any) -> None:
        setattr(self.tokenizer, name, value)
        # What `save_pretrained` writes.
        self.tokenizer.init_kwargs[name] = value

    def ended(self, end: int | None) -> "TextPreprocessor":
        """The same for a network that decides by the token `end` of the end, or by none; changes the tokenizer."""
        return replace(self, end=end)

    @property
    def kind(self) -> InputKind:
        """Always "text"."""
        return "text"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Tokens:
        """Tokenise all rows.

        Args:
            rows: texts, or tuples of words.
            max_tokens: longest row in tokens, special tokens included; the limit of the model applies too.

        Raises:
            UserError: the tokenizer fails, the rows are lists of words and it cannot map tokens to words, or a text has
                the token by which the network decides other than once.
        """
        limit = min(max_tokens, int(self.tokenizer.model_max_length))
        of_words = bool(rows) and isinstance(rows[0], tuple)
        if of_words and not self.tokenizer.is_fast:
            raise UserError(
                "token classification needs a tokenizer that knows its words (a tokenizer.json), it has none"
            )
        encoded = self._encoded(rows, limit)
        ids = [row or [self._only_token()] for row in encoded["input_ids"]] if rows else []
        # A row of exactly `limit` tokens may be complete or cut off. Tokenising only these again with room for one
        # more token tells which, without tokenising the whole data set twice.
        full = [row for row, tokens in zip(rows, ids, strict=True) if len(tokens) == limit]
        truncated = sum(len(tokens) > limit for tokens in self._encoded(full, limit + 1)["input_ids"]) if full else 0
        offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])]).astype(np.int64)
        if not of_words:
            self._check_ends(rows, ids)
        words = _flat([_first_words(encoded.word_ids(i)) or [-1] for i in range(len(ids))]) if of_words else None
        return Tokens(_flat(ids), offsets, int(self.tokenizer.pad_token_id or 0), words, truncated)

    def _encoded(self, rows: Sequence[RawRow], limit: int) -> Any:
        if not rows:
            return {}
        given = [list(row) if isinstance(row, tuple) else row for row in rows]
        split = isinstance(rows[0], tuple)
        try:
            return self.tokenizer(given, is_split_into_words=split, truncation=True, max_length=limit, padding=False)
        except Exception as error:  # tokenizers raises Exception itself, as for a vocabulary without an unknown token
            raise UserError(
                f"the tokenizer in {self.tokenizer.name_or_path} must take these texts, it fails: {str(error)[:200]}; "
                "take another copy of its files"
            ) from error

    def _check_ends(self, rows: Sequence[RawRow], ids: Sequence[Sequence[int]]) -> None:
        """UserError for a text that has the token by which the network decides other than once."""
        if self.end is None:
            return
        for row, tokens in zip(rows, ids, strict=True):
            if (count := tokens.count(self.end)) != 1:
                token = quoted(self.tokenizer.convert_ids_to_tokens(self.end))
                # Rows are shuffled before, so a number would not lead to the text.
                raise UserError(
                    f"the network decides by the token {token}, which every text must have once as its end: the text "
                    f"{quoted(row)} has it {count} times; take it out of the text, or take the tokenizer that the "
                    "network was trained with"
                )

    def _only_token(self) -> int:
        """The token of a text that has none, as an empty one with a tokenizer that marks no beginning and no end."""
        special = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk"))
        return next((int(token) for token in special if token is not None), 0)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into `folder`."""
        self.tokenizer.save_pretrained(folder)


def _first_words(words: Sequence[int | None]) -> list[int]:
    """Keep the index of a word at its first token; the other tokens and special tokens get -1."""
    before = itertools.chain([None], words)
    return [-1 if word is None or word == last else word for word, last in zip(words, before, strict=False)]


def _flat(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=sum(map(len, rows)))
