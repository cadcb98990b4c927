//! From what a terminal sends to the keys of the table.

use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};

use super::Key;

/// The key of a terminal's event; `None` for what is no key of ours.
pub fn key(event: &Event) -> Option<Key> {
    let Event::Key(event) = event else {
        return None;
    };
    if event.kind == KeyEventKind::Release {
        return None;
    }
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return match event.code {
            KeyCode::Char('c' | 'd') => Some(Key::Interrupt),
            _ => None,
        };
    }
    Some(match event.code {
        KeyCode::Char(character) => Key::Char(character),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn keys_of_the_terminal_become_ours_and_control_c_ends() {
        let press = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        assert_eq!(
            key(&press(KeyCode::Char('R'), KeyModifiers::SHIFT)),
            Some(Key::Char('R'))
        );
        assert_eq!(key(&press(KeyCode::PageDown, none)), Some(Key::PageDown));
        assert_eq!(
            key(&press(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            Some(Key::Interrupt)
        );
        assert_eq!(key(&press(KeyCode::F(1), none)), None);
        assert_eq!(key(&Event::Resize(80, 24)), None);
    }
}
