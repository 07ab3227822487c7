//! Comparing texts that people type: Unicode normalization, case folding and internationalized domain names.

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
use icu_properties::props::{BidiControl, DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed,
};

const CASE_MAPPER: CaseMapperBorrowed<'static> = CaseMapper::new();
const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();
const NFD: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizerBorrowed::new_nfd();
const BIDI_CONTROLS: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<BidiControl>();
const IGNORABLE: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<DefaultIgnorableCodePoint>();
const CATEGORIES: CodePointMapDataBorrowed<'static, GeneralCategory> = CodePointMapData::new();

/// The form of a text that is compared without regard to case: canonical caseless matching, with full case folding
/// (Unicode, section 3.13), in NFC.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let folded = CASE_MAPPER.fold_string(&NFD.normalize(text)).into_owned();
    NFC.normalize(&folded).into_owned()
}

/// The form of an email address, or of the beginning of one, that is compared. The domain is in Unicode as UTS #46
/// maps it, so that `xn--bcher-kva.example` and `BÜCHER.example` are the same; a domain that is no valid IDN is folded
/// like the rest.
pub(crate) fn fold_email(text: &str) -> String {
    let Some((local, domain)) = text.rsplit_once('@') else { return fold(text) };
    let domain = match idna::domain_to_unicode(domain) {
        (domain, Ok(())) => domain,
        _ => fold(domain),
    };
    format!("{}@{domain}", fold(local))
}

/// True if the character is part of a word: a letter or digit, or a mark that belongs to a letter.
pub(crate) fn is_word_character(character: char) -> bool {
    let is_mark = || GeneralCategoryGroup::Mark.contains(CATEGORIES.get(character));
    character.is_alphanumeric() || !character.is_ascii() && is_mark()
}

/// True if the character changes the direction of the text around it, by which a text can look like another one.
pub(crate) fn is_bidi_control(character: char) -> bool {
    BIDI_CONTROLS.contains(character)
}

/// True if the character can be seen: neither a space nor one without a glyph, such as a zero-width joiner or a
/// Hangul filler.
pub(crate) fn is_visible(character: char) -> bool {
    const BRAILLE_BLANK: char = '\u{2800}';
    let is_blank = character.is_whitespace() || character.is_control() || character == BRAILLE_BLANK;
    !is_blank && !IGNORABLE.contains(character)
}

/// True if the character has no glyph or changes the direction of text. Email addresses that differ only in such
/// characters look the same.
pub(crate) fn is_invisible(character: char) -> bool {
    IGNORABLE.contains(character) || is_bidi_control(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_case_or_normalization_have_the_same_form() {
        for (one, other) in [
            ("Acme", "ACME"),
            ("ΣΑΣ", "σας"),
            ("Straße", "STRASSE"),
            ("caf\u{e9}", "CAFE\u{301}"),
            ("\u{212b}", "\u{e5}"),
            ("ﬁx", "FIX"),
            ("ᾳ", "ΑΙ"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} {other}");
        }
        for (one, other) in [("cafe", "café"), ("ı", "i"), ("a", "а"), ("１", "1")] {
            assert_ne!(fold(one), fold(other), "{one} {other}");
        }
    }

    #[test]
    fn email_addresses_are_compared_by_their_unicode_domain() {
        for (one, other) in [
            ("ΣΣ@example.com", "σς@EXAMPLE.com"),
            ("Jo\u{308}rg@example.com", "jörg@example.com"),
            ("a@BÜCHER.example", "a@xn--bcher-kva.example"),
            ("a@bu\u{308}cher.example", "a@XN--BCHER-KVA.example"),
            ("a@例え。テスト", "a@例え.テスト"),
            ("a@[192.0.2.1]", "A@[192.0.2.1]"),
            ("a@no_host", "A@NO_HOST"),
        ] {
            assert_eq!(fold_email(one), fold_email(other), "{one} {other}");
        }
        for (one, other) in [
            // These are different domains, while the local part is folded in full.
            ("a@straße.example", "a@strasse.example"),
            ("a@example.com", "a@example.org"),
            ("a@xn--bcher-kva.example", "a@bucher.example"),
        ] {
            assert_ne!(fold_email(one), fold_email(other), "{one} {other}");
        }
        // The beginning of an address has the form of the beginning of its form.
        for beginning in ["Jö", "jörg@", "JÖRG@B", "jörg@BÜ", "jörg@bücher."] {
            assert!(fold_email("jörg@bücher.example").starts_with(&fold_email(beginning)), "{beginning}");
        }
    }
}
